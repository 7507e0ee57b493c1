"""What is possible without training: everything foreground, priors at a threshold, the nearer prototype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from i2r.config.schema import CAM_PRIORS, CamOptions
from i2r.data.episodes import load_episodes, threshold_episodes
from i2r.data.transforms import binary
from i2r.engine.feature_cache import CachedEncoder, Draw
from i2r.engine.inputs import job_dataset, job_encoder, job_lists, test_draw, test_picture
from i2r.engine.trainer import set_up
from i2r.files import write_json
from i2r.metrics import segmentation as scores
from i2r.nets.encoder import EpisodeInputs
from i2r.nets.pmgm.priors import PRIORS, prior
from i2r.nets.pmgm.regions import cam_regions
from i2r.nets.resize import bilinear
from i2r.pipeline.jobs import Job
from i2r.steps.evaluate import (
    COLUMNS,
    about,
    cam_classes,
    cam_measures,
    count,
    episode_row,
    finite,
    in_turn,
    no_number,
    prior_measures,
    prior_summary,
    save_arrays,
    shown,
    summary,
    walk,
    write_rows,
)

FOREGROUND, PROTOTYPE = "foreground", "prototype"


def run(job: Job) -> dict[str, Any]:
    """Write scores.json, episodes.csv (a row a method and episode) and pictures.npz.

    Thresholds are chosen on episodes of the training classes and images; the test episodes have no say.
    """
    device = set_up(job.runtime)
    dataset, lists = job_dataset(job), job_lists(job)
    size, scoring = job.params["data"]["size"], job.params["evaluate"]["scoring"]
    draws = [test_draw(episode) for episode in load_episodes(job.inputs["episodes"] / "episodes.json")]
    if not draws:
        return no_number(job, lists)
    has_cam = "cam_head" in job.inputs
    # all priors, whatever the method has
    options = CamOptions(**job.params["method"], prior="+".join(CAM_PRIORS) if has_cam else "bam")
    known = prior_names(options)
    names = [FOREGROUND, *(f"prior-{name}" for name in known), PROTOTYPE]
    cached = CachedEncoder(
        job_encoder(job, device), options, test_picture(dataset, size), job.runtime.cache_gb, device
    )
    thresholds = choose_thresholds(job, cached, lists, options)

    def measure(part: Sequence[Draw], inputs: EpisodeInputs, tally: dict[str, Any]) -> None:
        priors = all_priors(inputs, options)
        predicted = predictions(cached, part, inputs, priors, thresholds)
        plus = cam_regions(inputs, options).plus_query if has_cam else None
        index = tally["done"]
        for place, draw in enumerate(part):
            mask_s = inputs.mask_q[place]
            row = episode_row(index + place, draw)
            if plus is not None:
                read = {"class": draw.cls, "cam_classes": inputs.class_id[place].tolist()}
                tally["cam"].append(read | cam_measures(plus[place], mask_s))
            for method, logits in predicted.items():
                own = row | count(dataset, draw, logits[place], mask_s, scoring)
                name = method.removeprefix("prior-")
                if name in priors:
                    own |= prior_measures(tally["hists"][name], draw.cls, priors[name][place], mask_s)
                tally["rows"][method].append(own)

    empty = {"rows": {m: [] for m in names}, "hists": {name: {} for name in known}, "cam": []}
    tally = walk(job, cached, draws, empty, measure, f"baselines {job.name}")
    rows = tally["rows"]
    methods = {m: summary(job, rows[m], dataset, lists, tally["seconds"]) for m in names}
    for name, threshold in thresholds.items():
        methods[f"prior-{name}"]["threshold"] = threshold
    result = {
        "methods": methods,
        "priors": {name: prior_summary(rows[f"prior-{name}"], tally["hists"][name]) for name in known},
    }
    if has_cam:
        result["cam"] = {
            name: 100 * float(np.nanmean([row[name] for row in tally["cam"]]))
            for name in ("share_cam", "precision_cam", "recall_cam")
        }
        result["cam_classes"] = cam_classes(tally["cam"])
    write_json(job.out / "scores.json", finite(result))
    together = ({"method": m, **row} for m in names for row in rows[m])
    write_rows(job.out / "episodes.csv", together, ("method", *COLUMNS))

    best = max(names, key=lambda m: methods[m]["miou"])
    with torch.no_grad():
        arrays = {}
        for number, index in enumerate(in_turn(draws, job.params["report"]["pictures"])):
            draw = draws[index]
            inputs = cached.inputs([draw])
            priors = all_priors(inputs, options)
            logits = predictions(cached, [draw], inputs, priors, thresholds)[best]
            parts = shown(cached, draw)
            parts["prediction"] = logits[0].argmax(0).byte().cpu().numpy()
            if has_cam:
                parts["cam"] = cam_regions(inputs, options).cam_query[0, 0].float().cpu().numpy()
            parts |= {f"prior_{name}": maps[0].cpu().numpy() for name, maps in priors.items()}
            parts["meta"] = about(draw, dataset, rows[best][index], method=best)
            arrays |= {f"{name}_{number}": part for name, part in parts.items()}
        save_arrays(job.out / "pictures.npz", arrays)
    return finite({f"miou_{method}": methods[method]["miou"] for method in names})


def choose_thresholds(
    job: Job, cached: CachedEncoder, lists: dict[str, Any], options: CamOptions
) -> dict[str, float]:
    """For each prior the threshold with the best mIoU on episodes of the training classes, at S x S."""
    number, seed = job.params["baselines"]["threshold_episodes"], job.args["eval_seed"]
    draws = [test_draw(e) for e in threshold_episodes(lists, seed, number, job.args["shot"])]

    def measure(part: Sequence[Draw], inputs: EpisodeInputs, tally: dict[str, Any]) -> None:
        for name, maps in all_priors(inputs, options).items():
            for draw, one, mask_s in zip(part, maps, inputs.mask_q, strict=True):
                prior_measures(tally[name], draw.cls, one, mask_s)

    names = prior_names(options)
    tally = walk(job, cached, draws, {name: {} for name in names}, measure, f"thresholds {job.name}")
    return {name: scores.best_threshold(tally[name])[0] for name in names}


def prior_names(options: CamOptions) -> list[str]:
    """All priors, without a CAM those that need none."""
    return [name for name in PRIORS if options.uses_cam or name not in CAM_PRIORS]


def all_priors(inputs: EpisodeInputs, options: CamOptions) -> dict[str, Tensor]:
    """The priors of `prior_names`, of the queries at image size, (B, S, S) each; shots count alike."""
    regions = cam_regions(inputs, options) if options.uses_cam else None
    size = inputs.masks_s.shape[-2:]
    return {
        name: bilinear(prior(name, inputs, options, regions=regions, support=False)[0], size)
        for name in prior_names(options)
    }


def predictions(
    cached: CachedEncoder,
    draws: Sequence[Draw],
    inputs: EpisodeInputs,
    priors: dict[str, Tensor],
    thresholds: dict[str, float],
) -> dict[str, Tensor]:
    """Each method's (B, 2, S, S), to be scored like logits: the larger of the two is the prediction."""
    size = inputs.masks_s.shape[-2:]
    nothing = torch.zeros(len(draws), *size, device=inputs.x4_q.device)
    result = {FOREGROUND: torch.stack([nothing, nothing + 1], 1)}
    for name, maps in priors.items():
        # just below, for a value at the threshold is foreground
        result[f"prior-{name}"] = torch.stack([nothing + (thresholds[name] - 1e-6), maps.float()], 1)
    result[PROTOTYPE] = bilinear(nearer_prototype(cached, draws, inputs), size)
    return result


def nearer_prototype(cached: CachedEncoder, draws: Sequence[Draw], inputs: EpisodeInputs) -> Tensor:
    """Cosines (B, 2, h4, w4) of the query's layer4 to the prototypes of background and foreground.

    A prototype is the mean of the supports' layer4 of the whole image over the cells of all shots, weighed by the
    mask at that grid; unknown pixels are in neither.
    """
    kept = [[cached.features(view) for view in draw.supports] for draw in draws]
    x4 = torch.stack([torch.cat([features.x4 for features, _ in shots]) for shots in kept])  # (B, K, C, h, w)
    masks = torch.stack(
        [
            torch.stack([binary(mask, draw.cls) for _, mask in shots])
            for draw, shots in zip(draws, kept, strict=True)
        ]
    )
    sides = torch.stack([masks == 0, masks == 1], 2).float()  # (B, K, 2, S, S)
    weights = bilinear(sides, x4.shape[-2:])
    prototypes = torch.einsum("bkchw,bkphw->bpc", x4, weights)  # cosines need no division by the sum
    return torch.einsum("bpc,bchw->bphw", F.normalize(prototypes, dim=2), F.normalize(inputs.x4_q, dim=1))
