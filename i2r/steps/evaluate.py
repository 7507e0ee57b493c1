"""The evaluate step: scores of a trained or imported network on the test episodes of a fold."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from i2r.config.networks import NetworkOptions, network_options
from i2r.data.dataset import Dataset
from i2r.data.episodes import load_episodes
from i2r.engine.episode_loop import (
    COLUMNS,
    Tally,
    cam_classes,
    count_all,
    counter,
    episode_row,
    finite,
    no_number,
    summary,
    walk,
    write_rows,
)
from i2r.engine.episode_pictures import Arrays, save_arrays, write_pictures
from i2r.engine.feature_cache import CachedEncoder, Draw, evaluation_draw
from i2r.engine.images import evaluation_reader, resized_reader
from i2r.engine.inputs import WEIGHTS, job_dataset, job_encoder
from i2r.engine.trainer import set_up
from i2r.files import write_json
from i2r.metrics.prior_maps import cam_measures, prior_measures, prior_summary
from i2r.nets.encoder import Encoder, EpisodeInputs
from i2r.nets.io.network_file import load_meta_learner
from i2r.nets.networks import build_meta_learner
from i2r.nets.output import Output
from i2r.nets.pmgm.regions import cam_regions
from i2r.nets.resize import bilinear
from i2r.pipeline.jobs import Job
from i2r.pipeline.steps import BEST, BY_CHECKPOINT, KEPT


def run(job: Job) -> dict[str, Any]:
    """Write scores.json, episodes.csv and pictures.npz; with evaluate.checkpoint: all also checkpoints.csv."""
    device = set_up(job.runtime, job.threads)
    episodes = load_episodes(job.inputs["episodes"] / "episodes.json")
    draws = [evaluation_draw(episode) for episode in episodes.episodes]
    if not draws:
        return without_episodes(job, no_number(episodes))
    dataset, options = job_dataset(job), evaluation_options(job)
    encoder = job_encoder(job, device, options)
    meta_learner = evaluated_network(job, options, encoder).to(device)
    kept = {
        name: loaded_network(job, options, encoder, file).to(device)
        for name, file in kept_weights(job).items()
    }
    passes = encoder_passes(job, encoder, options, device)
    scoring = job.params["evaluate"]["scoring"]

    def measure(part: Sequence[Draw], inputs: EpisodeInputs, tally: Tally) -> None:
        seen = of_all_passes(passes, part, inputs)
        output, first = augmented(meta_learner, seen)
        measured = beside_the_scores(part, inputs, output, options, tally["hists"])
        for place, draw in enumerate(part):
            logits, alone = output.final_logits[place], None if first is None else first[place]
            row = episode_row(len(tally["rows"]), draw)
            row |= count_all(dataset, draw, logits, inputs.mask_q[place], scoring, alone)
            tally["rows"].append(row | measured[place])
        if kept:
            count_kept(kept, seen, part, dataset, scoring, tally)

    initial = {"rows": [], "hists": {}, "kept": [], "kept_seconds": 0.0}
    tally = walk(job, passes, draws, initial, measure, f"evaluate {job.label}")
    rows = tally["rows"]
    if scores_all(job):
        last = [{"checkpoint": "last"} | {name: row[name] for name in COLUMNS} for row in rows]
        write_rows(job.out / BY_CHECKPOINT, [*tally["kept"], *last], ("checkpoint", *COLUMNS))
        tally["seconds"] -= tally["kept_seconds"]
    result = summary(rows, dataset.classes, episodes, tally["seconds"], scoring)
    if tally["hists"]:
        result["prior"] = prior_summary(rows, tally["hists"])
    if any("mask_ratio" in row for row in rows):
        result["mask_ratio"] = np.mean([row["mask_ratio"] for row in rows], 0).tolist()
    if any("cam_classes" in row for row in rows):
        result["cam_classes"] = cam_classes(rows)
    write_json(job.out / "scores.json", finite(result))
    write_rows(job.out / "episodes.csv", rows)

    def predicted(draw: Draw, inputs: EpisodeInputs) -> tuple[Arrays, Mapping[str, Any]]:
        output, _ = augmented(meta_learner, of_all_passes(passes, [draw], inputs))
        return arrays_of(output, inputs, options), {}

    most = job.params["evaluate"]["pictures"]
    write_pictures(job.out / "pictures.npz", draws, most, passes[0], dataset.classes, rows, predicted)
    metrics = {name: result[name] for name in ("miou", "fb_iou", "episodes", "seconds_per_episode")}
    if result["vanished_queries"]:
        metrics |= {name: result[name] for name in ("vanished_queries", "miou_without_vanished")}
    prior = result.get("prior", {})
    return finite(
        metrics | {f"prior_{name}": prior[name] for name in ("bce", "ap", "iou_best") if name in prior}
    )


def without_episodes(job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """Write the products of a fold in which no class is scored."""
    write_json(job.out / "scores.json", result)
    write_rows(job.out / "episodes.csv", [])
    save_arrays(job.out / "pictures.npz", {})
    if scores_all(job):
        write_rows(job.out / BY_CHECKPOINT, [], ("checkpoint", *COLUMNS))
    return {name: result[name] for name in ("miou", "why", "episodes")}


def evaluation_options(job: Job) -> NetworkOptions:
    """The network's options, with the CAM threshold of the evaluation if it has one."""
    options, delta = network_options(job.params["network"]), job.params["evaluate"].get("delta")
    return options if delta is None else options.model_copy(update={"delta": delta})


def evaluated_network(job: Job, options: NetworkOptions, encoder: Encoder) -> nn.Module:
    """The trained meta learner, or that of a weights file, with the attention mask of the evaluation."""
    trained = BEST if job.params["evaluate"].get("checkpoint") == "best" else WEIGHTS
    given = job.params.get("train", {}).get("weights")
    return loaded_network(job, options, encoder, given or job.inputs["train"] / trained)


def loaded_network(job: Job, options: NetworkOptions, encoder: Encoder, file: str | Path) -> nn.Module:
    """The meta learner of a file, with the attention mask of the evaluation."""
    meta_learner = build_meta_learner(options, encoder.layout, job.args["shot"])
    load_meta_learner(meta_learner, file)
    if (mask := job.params["evaluate"]["mask"]) != "none":
        meta_learner.test_mask = mask
    return meta_learner.eval()


def scores_all(job: Job) -> bool:
    """Whether every checkpoint of the training is scored beside the last."""
    return job.params["evaluate"].get("checkpoint") == "all"


def kept_weights(job: Job) -> dict[str, Path]:
    """Files of the checkpoints that are scored beside the last, by number of steps; that with the best validation, if
    there is one, as `best`."""
    if not scores_all(job):
        return {}
    files = sorted((job.inputs["train"] / KEPT).glob("[0-9]*.safetensors"), key=lambda file: int(file.stem))
    best = job.inputs["train"] / BEST
    return {file.stem: file for file in [*files, *([best] if best.is_file() else [])]}


def count_kept(
    kept: Mapping[str, nn.Module],
    seen: Sequence[EpisodeInputs],
    part: Sequence[Draw],
    dataset: Dataset,
    scoring: str,
    tally: Tally,
) -> None:
    """Add to the tally a row for each episode and kept checkpoint, and the seconds that they took.

    seen: see of_all_passes.
    """
    began = time.perf_counter()
    logits = {name: augmented(network, seen)[0].final_logits for name, network in kept.items()}
    for place, draw in enumerate(part):
        on = counter(dataset, draw, seen[0].mask_q[place])
        row = episode_row(tally["done"] + place, draw)
        for name, own in logits.items():  # own: (B, 2, S, S)
            tally["kept"].append({"checkpoint": name} | row | on(scoring, own[place])._asdict())
    tally["kept_seconds"] += time.perf_counter() - began


def encoder_passes(
    job: Job, encoder: Encoder, options: NetworkOptions, device: torch.device
) -> list[CachedEncoder]:
    """Cached encoders: one for images at side S, and one for each further pass of test-time augmentation."""
    size = job.params["data"]["size"]
    read = evaluation_reader(job_dataset(job), size)
    sides = tta_sides(job.params["evaluate"]["tta"], size)
    readers = [read, *(resized_reader(read, *own) for own in sides)]
    memory, workers = job.runtime.cache_gb / len(readers), job.runtime.workers
    return [CachedEncoder(encoder, options, reader, memory, device, workers) for reader in readers]


def tta_sides(tta: str, size: int) -> list[tuple[int, ...]]:
    """For each pass after the first: the sides to which images of side S are resized, one after the other.

    `scales` uses 0.8 and 1.25 of S; `released` enlarges the images reduced to 0.8. Sides are multiples of 8 plus 1.
    """

    def scaled(side: int, scale: float) -> int:
        return 8 * round((side - 1) * scale / 8) + 1

    smaller = scaled(size, 0.8)
    return {
        "none": [],
        "scales": [(smaller,), (scaled(size, 1.25),)],
        "released": [(smaller,), (smaller, scaled(smaller, 1.25))],
    }[tta]


def of_all_passes(
    passes: Sequence[CachedEncoder], part: Sequence[Draw], inputs: EpisodeInputs
) -> list[EpisodeInputs]:
    """Inputs of these draws for each pass of test-time augmentation; `inputs`: those of the first."""
    return [inputs, *(other.inputs(part) for other in passes[1:])]


def augmented(meta_learner: nn.Module, seen: Sequence[EpisodeInputs]) -> tuple[Output, Tensor | None]:
    """Output with final logits (B, 2, S, S) averaged over all passes, and those of the first pass alone; None if there
    is no other.

    seen: the same episodes for each pass, see of_all_passes.
    """
    output: Output = meta_learner(seen[0])
    if len(seen) == 1:
        return output, None
    first = output.final_logits
    logits = [meta_learner(inputs).final_logits for inputs in seen[1:]]
    same = [bilinear(maps, first.shape[-2:]) for maps in logits]
    output.final_logits = torch.stack([first, *same]).mean(0)
    return output, first


def beside_the_scores(
    part: Sequence[Draw],
    inputs: EpisodeInputs,
    output: Output,
    options: NetworkOptions,
    hists: dict[int, Any],
) -> list[dict[str, Any]]:
    """Measures of prior, CAM and attention mask for each episode, as far as the network has them."""
    measured: list[dict[str, Any]] = [{} for _ in part]
    if output.prior_query is not None:
        prior = bilinear(output.prior_query, inputs.mask_q.shape[-2:])  # (B, S, S)
        for place, draw in enumerate(part):
            measured[place] |= prior_measures(hists, draw.cls, prior[place], inputs.mask_q[place])
    if options.uses_cam:
        plus = cam_regions(inputs, options).plus_query
        for place in range(len(part)):
            measured[place] |= cam_measures(plus[place], inputs.mask_q[place])
            measured[place]["cam_classes"] = inputs.class_id[place].tolist()
    if output.mask_ratio:
        ratio = [float(ratio) for ratio in output.mask_ratio]  # of all episodes of the chunk
        measured = [row | {"mask_ratio": ratio} for row in measured]
    return measured


def arrays_of(output: Output, inputs: EpisodeInputs, options: NetworkOptions) -> Arrays:
    """Maps (S, S) of one episode, for its picture."""
    size = inputs.mask_q.shape[-2:]
    arrays = {"prediction": output.final_logits[0].argmax(0).byte().cpu().numpy()}
    if output.prior_query is not None:
        arrays["prior"] = bilinear(output.prior_query, size)[0].float().cpu().numpy()
    if options.uses_cam:
        arrays["cam"] = cam_regions(inputs, options).cam_query[0, 0].float().cpu().numpy()
    return arrays
