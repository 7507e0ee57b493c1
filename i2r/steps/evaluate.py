"""Scores of a trained or imported network over the frozen episodes of a fold, and of its prior and CAM beside it."""

from __future__ import annotations

import csv
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2r.config.schema import Method
from i2r.data.dataset import Dataset
from i2r.data.episodes import load_episodes
from i2r.data.lists import describe_excluded
from i2r.data.transforms import binary, placement, to_picture
from i2r.engine.feature_cache import CachedEncoder, Draw
from i2r.engine.inputs import WEIGHTS, job_dataset, job_encoder, job_lists, resized, test_draw, test_picture
from i2r.engine.trainer import SavedState, seed_of, set_up
from i2r.files import replacing, write_json
from i2r.metrics import segmentation as scores
from i2r.nets.encoder import EpisodeInputs
from i2r.nets.heads import build_head
from i2r.nets.io.network_file import load_head
from i2r.nets.output import Output
from i2r.nets.pmgm.regions import cam_regions
from i2r.nets.resize import bilinear
from i2r.pipeline.jobs import Job
from i2r.progress import Progress

CHUNK = 8  # episodes that go through the network together
COLUMNS = ("index", "class", "query", "supports", *scores.Counts._fields)

Row = dict[str, Any]


def run(job: Job) -> dict[str, Any]:
    """Write scores.json, episodes.csv and pictures.npz."""
    device = set_up(job.runtime)
    options = Method(**job.params["method"])
    dataset, lists = job_dataset(job), job_lists(job)
    size, scoring = job.params["data"]["size"], job.params["evaluate"]["scoring"]
    draws = [test_draw(episode) for episode in load_episodes(job.inputs["episodes"] / "episodes.json")]
    if not draws:
        return no_number(job, lists)
    encoder = job_encoder(job, device)
    head = build_head(options, encoder.channels, job.args["shot"])
    load_head(head, options.weights or job.inputs["train"] / WEIGHTS)
    head.to(device).eval()
    picture = test_picture(dataset, size)
    passes = [
        picture,
        *(resized(picture, *sides) for sides in tta_sides(job.params["evaluate"]["tta"], size)),
    ]
    memory = job.runtime.cache_gb / len(passes)
    cached, *others = (CachedEncoder(encoder, options, view, memory, device) for view in passes)
    predict = partial(augmented, head, others)

    def measure(part: Sequence[Draw], inputs: EpisodeInputs, tally: dict[str, Any]) -> None:
        output = predict(part, inputs)
        prior = bilinear(output.prior_query, inputs.mask_q.shape[-2:])  # (B, S, S)
        plus = cam_regions(inputs, options).plus_query if options.uses_cam else [None] * len(part)
        for place, draw in enumerate(part):
            mask_s = inputs.mask_q[place]
            row = episode_row(len(tally["rows"]), draw)
            row |= count(dataset, draw, output.final_logits[place], mask_s, scoring)
            row |= prior_measures(tally["hists"], draw.cls, prior[place], mask_s)
            if plus[place] is not None:
                row |= cam_measures(plus[place], mask_s)
                row["cam_classes"] = inputs.class_id[place].tolist()
            if output.mask_ratio:
                row["mask_ratio"] = [float(ratio) for ratio in output.mask_ratio]  # of the whole chunk
            tally["rows"].append(row)

    tally = walk(job, cached, draws, {"rows": [], "hists": {}}, measure, f"evaluate {job.name}")
    rows = tally["rows"]
    result = summary(job, rows, dataset, lists, tally["seconds"])
    result["prior"] = prior_summary(rows, tally["hists"])
    if any("mask_ratio" in row for row in rows):
        result["mask_ratio"] = np.mean([row["mask_ratio"] for row in rows], 0).tolist()
    if any("cam_classes" in row for row in rows):
        result["cam_classes"] = cam_classes(rows)
    write_json(job.out / "scores.json", finite(result))
    write_rows(job.out / "episodes.csv", rows, COLUMNS)
    chosen = in_turn(draws, job.params["report"]["pictures"])
    with torch.no_grad():
        write_pictures(job.out / "pictures.npz", draws, chosen, cached, dataset, rows, predict, options)
    return finite(
        {name: result[name] for name in ("miou", "fb_iou", "episodes", "seconds_per_episode")}
        | {f"prior_{name}": result["prior"][name] for name in ("bce", "ap", "iou_best")}
    )


def tta_sides(tta: str, size: int) -> list[tuple[int, ...]]:
    """Sides that pictures of side S are resized to, one after another, in each pass after the first.

    `scales` means 0.8 and 1.25 of S; in the `released` code the last enlarges what the one before has reduced. Sides
    stay multiples of 8 plus 1.
    """

    def scaled(side: int, scale: float) -> int:
        return 8 * round((side - 1) * scale / 8) + 1

    smaller = scaled(size, 0.8)
    return {
        "none": [],
        "scales": [(smaller,), (scaled(size, 1.25),)],
        "released": [(smaller,), (smaller, scaled(smaller, 1.25))],
    }[tta]


def augmented(
    head: torch.nn.Module, others: Sequence[CachedEncoder], part: Sequence[Draw], inputs: EpisodeInputs
) -> Output:
    """Output on the inputs of these draws, its final logits (B, 2, S, S) means over all passes."""
    output: Output = head(inputs)
    logits = [head(other.inputs(part)).final_logits for other in others]
    same = [bilinear(maps, output.final_logits.shape[-2:]) for maps in logits]
    output.final_logits = torch.stack([output.final_logits, *same]).mean(0)
    return output


def walk(
    job: Job,
    cached: CachedEncoder,
    draws: Sequence[Draw],
    tally: dict[str, Any],
    measure: Callable[[Sequence[Draw], EpisodeInputs, dict[str, Any]], None],
    label: str,
) -> dict[str, Any]:
    """Pass all episodes, CHUNK at a time, through `measure`, which adds to `tally`; goes on where it was killed.

    Args:
        tally: empty at first; whatever a saved state can hold (tensors, numbers, words, lists and dicts of these).

    Returns:
        The tally, with `done` episodes and `seconds`.
    """
    tally = {"done": 0, "seconds": 0.0, **tally}
    folder = job.state / label.split()[0]
    with SavedState(folder, job.runtime.save_every) as saved, torch.no_grad():
        if (state := saved.load()) is not None:
            tally = state
        with Progress(label, len(draws), "episode", start=tally["done"]) as progress:
            for start in range(tally["done"], len(draws), CHUNK):
                began = time.perf_counter()
                part = draws[start : start + CHUNK]
                torch.manual_seed(seed_of("evaluate", start))  # for the mask that is drawn at random
                measure(part, cached.inputs(part), tally)
                tally["done"] += len(part)
                tally["seconds"] += time.perf_counter() - began
                progress.update(len(part))
                saved.tick(lambda: tally)
        saved.save(tally)
    return tally


# --- of one episode --------------------------------------------------------------------------------------


def episode_row(index: int, draw: Draw) -> Row:
    supports = " ".join(view.id for view in draw.supports)
    return {"index": index, "class": draw.cls, "query": draw.query.id, "supports": supports}


def count(dataset: Dataset, draw: Draw, logits: Tensor, mask_s: Tensor, scoring: str) -> dict[str, int]:
    """Counts of logits (2, S, S) on the scoring grid; mask_s (S, S) is the query's mask in the network's square."""
    mask = binary(torch.from_numpy(dataset.mask(draw.query.id)).to(logits.device), draw.cls)
    place = placement(*mask.shape, mask_s.shape[-1])
    target = scores.target_on_grid(scoring, mask, mask_s, place)
    prediction = scores.predict_on_grid(scoring, logits.float(), place)
    return scores.binary_counts(prediction, target)._asdict()


def prior_measures(hists: dict[int, Tensor], cls: int, prior: Tensor, mask_s: Tensor) -> dict[str, float]:
    """Cross-entropy and average precision of a prior (S, S); its histogram is added to its class's."""
    hist = scores.histogram(prior, mask_s)
    hists[cls] = hists[cls] + hist if cls in hists else hist
    return {
        "bce": scores.prior_bce(prior, mask_s),
        "bce_background": scores.prior_bce(prior, mask_s, ignore=False),
        "ap": scores.average_precision(hist),
    }


def cam_measures(plus: Tensor, mask_s: Tensor) -> dict[str, float]:
    """Share of the query that CAM+ (K, S, S) marks, its precision and its recall of the object; means over shots.

    Pixels that are unknown, padding too, are left out. Precision is NaN where nothing is marked.
    """
    known, truth = mask_s != scores.IGNORE, mask_s == 1
    marked = (plus & known).flatten(1).sum(1).double()  # (K,)
    hits = (plus & truth).flatten(1).sum(1).double()
    return {
        "share_cam": float((marked / known.sum()).mean()),
        "precision_cam": float((hits / marked).nanmean()),
        "recall_cam": float((hits / truth.sum()).mean()),
    }


# --- of all episodes -------------------------------------------------------------------------------------


def summary(
    job: Job, rows: Sequence[Row], dataset: Dataset, lists: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Scores in percent, as scores.json holds them."""
    classes = lists["test_classes"]
    labels = [row["class"] for row in rows]
    counts = np.array([[row[name] for name in scores.Counts._fields] for row in rows], dtype=float)
    result = scores.score(classes, labels, counts)
    interval = scores.bootstrap(classes, labels, counts, job.params["report"]["bootstrap"])
    return {
        "miou": 100 * result.miou,
        "fb_iou": 100 * result.fb_iou,
        "interval": [100 * bound for bound in interval],
        "classes": {
            str(c): {
                "name": dataset.classes[c - 1],
                "iou": 100 * result.iou[c] if c in result.iou else None,
                "queries": result.queries[c],
            }
            for c in classes
        },
        "excluded": lists["excluded"],
        "episodes": len(rows),
        "seconds_per_episode": seconds / len(rows),
    }


def prior_summary(rows: Sequence[Row], hists: dict[int, Tensor]) -> dict[str, float]:
    """Means over episodes and the IoU at the best threshold; percent but for cross-entropy and threshold."""
    result = {"bce": mean(rows, "bce"), "bce_background": mean(rows, "bce_background")}
    result["ap"] = 100 * mean(rows, "ap")
    threshold, iou = scores.best_threshold(hists)
    result |= {"iou_best": 100 * iou, "threshold_best": threshold}
    for name in ("share_cam", "precision_cam", "recall_cam"):
        if any(name in row for row in rows):
            result[name] = 100 * mean(rows, name)
    return result


def mean(rows: Sequence[Row], name: str) -> float:
    """Mean over the episodes that have a number there."""
    values = [row[name] for row in rows if name in row and not math.isnan(row[name])]
    return float(np.mean(values)) if values else float("nan")


def cam_classes(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """How often the classifier read each of its classes from the supports of each class."""
    read: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        for class_id in row["cam_classes"]:
            read[row["class"]][str(class_id)] += 1
    return {
        str(c): dict(sorted(counts.items(), key=lambda item: -item[1])) for c, counts in sorted(read.items())
    }


def no_number(job: Job, lists: dict[str, Any]) -> dict[str, Any]:
    """Products of a fold in which no class is left to score: a reason instead of a number."""
    why = describe_excluded(lists) or f"fold {lists['fold']}: no episodes"
    write_json(
        job.out / "scores.json", {"miou": None, "why": why, "excluded": lists["excluded"], "episodes": 0}
    )
    write_rows(job.out / "episodes.csv", [], COLUMNS)
    save_arrays(job.out / "pictures.npz", {})
    return {"miou": None, "why": why, "episodes": 0}


def finite(value: Any) -> Any:
    """The same with None where a number is not finite, as JSON wants it."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_rows(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# --- pictures --------------------------------------------------------------------------------------------


def in_turn(draws: Sequence[Draw], most: int) -> list[int]:
    """Numbers of the first episode of each class, then of the second of each, `most` in all."""
    seen: dict[int, int] = defaultdict(int)
    ranked = []
    for index, draw in enumerate(draws):
        ranked.append((seen[draw.cls], draw.cls, index))
        seen[draw.cls] += 1
    return [index for *_, index in sorted(ranked)[:most]]


def shown(cached: CachedEncoder, draw: Draw) -> dict[str, np.ndarray]:
    """What an episode looks like to the network: uint8 (S, S, 3) and (S, S) of the query and its first support."""
    query, truth = cached.picture(draw.query)
    support, mask = cached.picture(draw.supports[0])
    return {
        "query": to_picture(query),
        "truth": binary(truth, draw.cls).numpy(),
        "support": to_picture(support),
        "support_mask": binary(mask, draw.cls).numpy(),
    }


def about(draw: Draw, dataset: Dataset, row: Row, **more: Any) -> np.ndarray:
    """The words beside a picture, as JSON; iou in percent."""
    iou = 100 * row["inter_fg"] / row["union_fg"] if row["union_fg"] else None
    words = {name: row[name] for name in ("index", "class", "query", "supports")}
    return np.array(json.dumps(words | {"name": dataset.classes[draw.cls - 1], "iou": iou} | more))


def write_pictures(
    path: Path,
    draws: Sequence[Draw],
    chosen: Sequence[int],
    cached: CachedEncoder,
    dataset: Dataset,
    rows: Sequence[Row],
    predict: Callable[[Sequence[Draw], EpisodeInputs], Output],
    options: Method,
) -> None:
    """Arrays of the chosen episodes, numbered in the order of `chosen`."""
    arrays = {}
    for number, index in enumerate(chosen):
        draw = draws[index]
        inputs = cached.inputs([draw])
        output = predict([draw], inputs)
        parts = shown(cached, draw)
        parts["prediction"] = output.final_logits[0].argmax(0).byte().cpu().numpy()
        parts["prior"] = bilinear(output.prior_query, inputs.mask_q.shape[-2:])[0].float().cpu().numpy()
        if options.uses_cam:
            parts["cam"] = cam_regions(inputs, options).cam_query[0, 0].float().cpu().numpy()
        parts["meta"] = about(draw, dataset, rows[index])
        arrays |= {f"{name}_{number}": part for name, part in parts.items()}
    save_arrays(path, arrays)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)
