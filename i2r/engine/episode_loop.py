"""The loop over test episodes that all methods share: pixel counts of each episode, and scores over all of them."""

from __future__ import annotations

import csv
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2r.config.schema import GRIDS, WITHOUT_TTA, YARDSTICKS
from i2r.data.dataset import Dataset
from i2r.data.episodes import EpisodeList, describe_excluded
from i2r.data.transforms import binary, placement
from i2r.engine.feature_cache import CachedEncoder, Draw
from i2r.engine.trainer import SavedState, seed_of
from i2r.files import replacing
from i2r.metrics import segmentation
from i2r.nets.encoder import EpisodeInputs
from i2r.pipeline.jobs import Job
from i2r.progress import Progress

PRIOR_MEASURES = ("bce", "bce_calibrated", "bce_background", "ap")
CHUNK = 8  # episodes that go through the network together
COUNTS = segmentation.Counts._fields
COLUMNS = ("index", "class", "query", "supports", *COUNTS)  # of episodes.csv

Row = dict[str, Any]
Tally = dict[str, Any]
Measure = Callable[[Sequence[Draw], EpisodeInputs, Tally], None]


def walk(
    job: Job,
    passes: Sequence[CachedEncoder],
    draws: Sequence[Draw],
    tally: Tally,
    measure: Measure,
    label: str,
) -> Tally:
    """Call `measure` on all episodes, CHUNK at a time; it adds to `tally`. A killed walk continues where it stopped.

    Args:
        passes: encoders, from which `measure` can request inputs; it is given those of the first.
        tally: the initial values; tensors, numbers, strings, and lists and dicts of these.
        label: its first word is the name of the saved state's folder.

    Returns:
        The tally, with `done` episodes and `seconds`.
    """
    tally = {"done": 0, "seconds": 0.0, **tally}
    with SavedState(job.state / label.split()[0], job.runtime.save_every) as saved, torch.no_grad():
        if (state := saved.load()) is not None:
            tally = state
        chunks = [draws[start : start + CHUNK] for start in range(tally["done"], len(draws), CHUNK)]
        for encoder in passes:
            encoder.expect(chunks)
        with Progress(label, len(draws), "episode", start=tally["done"]) as progress:
            for part in chunks:
                began = time.perf_counter()
                torch.manual_seed(seed_of("evaluate", tally["done"]))  # for the random attention mask
                measure(part, passes[0].inputs(part), tally)
                tally["done"] += len(part)
                tally["seconds"] += time.perf_counter() - began
                progress.update(len(part))
                saved.tick(lambda: tally)
        saved.save(tally)
    return tally


# --- of one episode ------------------------------------------------------------------------------------------


def episode_row(index: int, draw: Draw) -> Row:
    """The columns of episodes.csv that are not counts."""
    supports = " ".join(view.id for view in draw.supports)
    return {"index": index, "class": draw.cls, "query": draw.query.id, "supports": supports}


def count(dataset: Dataset, draw: Draw, logits: Tensor, mask_s: Tensor, scoring: str) -> dict[str, int]:
    """Counts of an episode's logits (2, S, S) on the scoring grid, in pixels.

    mask_s (S, S) 0 | 1 | 255 is the query's mask in the evaluation view.
    """
    return counter(dataset, draw, mask_s)(scoring, logits)._asdict()


def count_all(
    dataset: Dataset, draw: Draw, logits: Tensor, mask_s: Tensor, scoring: str, first: Tensor | None = None
) -> dict[str, int]:
    """`count`, the same on the other grids, as `inter_fg_bam`, and `vanished`, see `summary`.

    first: logits (2, S, S) of the first pass of test-time augmentation, counted as WITHOUT_TTA; None without it.
    """
    on = counter(dataset, draw, mask_s)
    counts = {"": on(scoring, logits)} | {f"_{grid}": on(grid, logits) for grid in GRIDS if grid != scoring}
    if first is not None:
        counts[f"_{WITHOUT_TTA}"] = on(scoring, first)
    row = {f"{name}{at}": pixels for at, own in counts.items() for name, pixels in own._asdict().items()}
    return row | {"vanished": int(not (mask_s == 1).any())}


def counter(dataset: Dataset, draw: Draw, mask_s: Tensor) -> Callable[[str, Tensor], segmentation.Counts]:
    """Grid and logits (2, S, S) of an episode -> counts. The query's mask is read once."""
    mask = binary(torch.from_numpy(dataset.mask(draw.query.id)).to(mask_s.device), draw.cls)
    place = placement(*mask.shape, mask_s.shape[-1])

    def on(grid: str, logits: Tensor) -> segmentation.Counts:
        target = segmentation.target_on_grid(grid, mask, mask_s, place)
        return segmentation.binary_counts(segmentation.predict_on_grid(grid, logits.float(), place), target)

    return on


# --- of all episodes -----------------------------------------------------------------------------------------


def summary(
    rows: Sequence[Row], names: Sequence[str], episodes: EpisodeList, seconds: float, scoring: str
) -> dict[str, Any]:
    """The content of scores.json; scores in percent.

    `yardsticks` has mIoU and FB-IoU on every grid, and of the first pass alone if there are several (WITHOUT_TTA).

    `vanished_queries` are those of whose object nothing is left at the network's side, so that no network can see it;
    if there are any, `miou_without_vanished` is the mIoU of the other episodes.

    Args:
        rows: of all episodes, with their class and the values of `count_all`.
        names: of the data set's classes, from class 1.
        seconds: time of all episodes.
        scoring: the grid of the main score.
    """
    labels = np.array([row["class"] for row in rows])
    counts = counts_of(rows)
    result = segmentation.score(episodes.classes, labels, counts)
    others = [name for name in YARDSTICKS if f"{COUNTS[0]}_{name}" in rows[0]]
    scored = {scoring: result} | {
        name: segmentation.score(episodes.classes, labels, counts_of(rows, f"_{name}")) for name in others
    }
    seen = np.array([not row["vanished"] for row in rows])
    more: dict[str, Any] = {"vanished_queries": int((~seen).sum())}
    if more["vanished_queries"]:
        visible = segmentation.score(episodes.classes, labels[seen], counts[seen])
        more["miou_without_vanished"] = 100 * visible.miou
    return more | {
        "miou": 100 * result.miou,
        "fb_iou": 100 * result.fb_iou,
        "yardsticks": {
            name: {"miou": 100 * own.miou, "fb_iou": 100 * own.fb_iou} for name, own in scored.items()
        },
        "classes": {
            str(c): {
                "name": names[c - 1],
                "iou": 100 * result.iou[c] if c in result.iou else None,
                "queries": result.queries[c],
            }
            for c in episodes.classes
        },
        "excluded": episodes.excluded,
        "protocol": episodes.protocol,
        "episodes": len(rows),
        "seconds_per_episode": seconds / len(rows),
    }


def counts_of(rows: Sequence[Row], suffix: str = "") -> np.ndarray:
    """The counts of a yardstick, (E, 4); suffix: of their columns."""
    return np.array([[row[f"{name}{suffix}"] for name in COUNTS] for row in rows], dtype=float)


def no_number(episodes: EpisodeList) -> dict[str, Any]:
    """The content of scores.json for a fold in which no class is scored: the reason instead of scores."""
    why = describe_excluded(episodes) or f"fold {episodes.fold}: no episodes"
    return {
        "miou": None,
        "why": why,
        "excluded": episodes.excluded,
        "protocol": episodes.protocol,
        "episodes": 0,
    }


def cam_classes(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Number of times that the classifier predicted each of its classes for the supports of each class.

    rows: with `class`, and `cam_classes`, the classes predicted for the shots.
    """
    read: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        for class_id in row["cam_classes"]:
            read[row["class"]][str(class_id)] += 1
    return {
        str(c): dict(sorted(counts.items(), key=lambda item: -item[1])) for c, counts in sorted(read.items())
    }


# --- files ---------------------------------------------------------------------------------------------------


def finite(value: Any) -> Any:
    """The same value with None for numbers that are not finite, which JSON cannot hold."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Write a CSV file with these columns, and those of PRIOR_MEASURES and of the yardsticks that a row has."""
    counts = (f"{name}_{yardstick}" for yardstick in YARDSTICKS for name in COUNTS)
    known = set().union(*rows)
    columns = (*columns, *(name for name in (*PRIOR_MEASURES, *counts) if name in known))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
