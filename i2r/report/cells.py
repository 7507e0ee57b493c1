"""Every number of the paper's tables beside ours: reproduced, higher, lower, not comparable or not run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from i2r.config.paper_targets import paper_files
from i2r.config.schema import GRIDS
from i2r.metrics.statistics import seed_interval
from i2r.paper.published import FOLDS, MEAN, printed, published
from i2r.report.forms import ratios, table4, variants
from i2r.report.forms.shown import departed, not_of_table
from i2r.report.forms.table1 import paper_table
from i2r.report.target import OVER_IMAGES, OVER_SEEDS, Target
from i2r.report.text import folds_said

CELLS = [
    "target",
    "table",
    "dataset",
    "shot",
    "method",
    "column",
    "unit",
    "ours",
    *OVER_IMAGES,
    *OVER_SEEDS,
]
CELLS += ["seeds", "evaluation deviation", "paper", "difference", "verdict", "why"]
ON_GRIDS = {grid: f"ours on {grid}" for grid in GRIDS}  # columns of scores
CELLS += ON_GRIDS.values()
NUMBERS = ["ours", *OVER_IMAGES, *OVER_SEEDS, "evaluation deviation", "paper", "difference"]
NUMBERS += ON_GRIDS.values()
IN_POINTS = ("mIoU, %", "FB-IoU, %")  # units whose margin is in points; of the others it is a share


def table(targets: Sequence[Target]) -> pd.DataFrame:
    """One row for each number that the paper prints for a method of these targets, with CELLS.

    why: what makes a cell incomparable; of a comparable one, in what the setting differs nevertheless.
    """
    rows = [row | _verdict(target, row) for target in targets for row in _cells(target)]
    return pd.DataFrame(rows, columns=CELLS).astype(dict.fromkeys(NUMBERS, float))


def _verdict(target: Target, row: dict[str, Any]) -> dict[str, Any]:
    """Difference and verdict of a cell that has `ours`, `paper` and `differs`, or the reason for none."""
    if why := row.get("impossible"):
        return {"verdict": "not possible", "why": why}
    gained, report = row["ours"] - row["paper"], target.results.params["report"]
    found = {"difference": gained, "why": "; ".join(row["differs"] or row["departs"])}
    if np.isnan(row["ours"]):
        return found | {"verdict": "not run", "why": ""}
    if row["differs"]:
        return found | {"verdict": "not comparable"}
    share = report["reproduced_share"] * abs(row["paper"])
    margin = report["reproduced"] if row["unit"] in IN_POINTS else share
    return found | {"verdict": "reproduced" if abs(gained) <= margin else "higher" if gained > 0 else "lower"}


def _cells(target: Target) -> Iterator[dict[str, Any]]:
    """The cells of a target, without their verdicts."""
    for id, why in target.impossible.items():
        for shot in target.shots:
            yield {"target": target.name, "table": target.form, "shot": shot, "method": id, "impossible": why}
    if target.host and target.form == "table4":
        yield from _priors(target)
    for id in target.trained:
        for shot in target.shots:
            yield from _masked(target, id, shot) if target.form == "table5" else _scored(target, id, shot)


def _scored(target: Target, id: str, shot: int) -> Iterator[dict[str, Any]]:
    """mIoU or FB-IoU of a method."""
    method, name = target.method(id), target.name
    if target.form == "table1" and name not in ("table1", "table2"):
        name = paper_table(target, id)
    elif target.form != "table1":
        name = target.form
    known = printed(name, method["params"], method["reading"], shot)
    if not known or "published" not in paper_files().get(target.name, {"published": None}):
        return
    value, title = variants.measure(target)
    cells = target.table(target.dataset(id), shot, value).loc[id]
    on_grids = {text: target.means(id, shot, f"{value}_{grid}") for grid, text in ON_GRIDS.items()}
    start = _start(target, name, id, shot, f"{title}, %")
    for column, paper in known.items():
        place = MEAN if column == MEAN else FOLDS.index(column)
        row = start | {"column": column, "paper": paper, "ours": np.nan}
        if place == MEAN or place in target.folds:
            row |= {"ours": cells[place]} | _spreads(target, id, shot, place, value)
            row |= {text: own[place] for text, own in on_grids.items()}
        yield row | _some_folds(target, row)


def _some_folds(target: Target, row: dict[str, Any]) -> dict[str, Any]:
    """What makes a mean over fewer folds than the paper's incomparable."""
    if not row["column"].endswith(MEAN) or len(target.folds) == len(FOLDS):
        return {}
    return {"differs": [*row["differs"], f"{folds_said(target.folds)}, not the mean of folds 0 to 3"]}


def _start(target: Target, table: str, id: str, shot: int, unit: str) -> dict[str, Any]:
    return {
        "target": target.name,
        "table": table,
        "dataset": target.dataset(id),
        "shot": shot,
        "method": id,
        "unit": unit,
        "differs": not_of_table(target, id, shot, table),
        "departs": departed(target, id),
    }


def _spreads(target: Target, id: str, shot: int, place: int | str, value: str) -> dict[str, float]:
    """The three deviations of a cell: over images, over training seeds, over evaluation seeds."""
    mean = place == MEAN
    drawn = target.mean_samples(id, shot, value) if mean else target.samples(id, shot, place, value)
    ends = (np.nan, np.nan) if drawn is None else drawn.interval()
    by = {seed: _by_seed(target, id, shot, place, seed, value) for seed in ("seed", "eval_seed")}
    trained, evaluated = list(by["seed"].values()), list(by["eval_seed"].values())
    spread = float(np.std(evaluated, ddof=1)) if len(evaluated) > 1 else np.nan
    names = (*OVER_IMAGES, *OVER_SEEDS, "seeds", "evaluation deviation")
    return dict(zip(names, (*ends, *seed_interval(trained), len(trained), spread), strict=True))


def _by_seed(target: Target, id: str, shot: int, place: int | str, seed: str, value: str) -> dict[int, float]:
    if place == MEAN:
        return target.by_seed(id, shot, seed, value)
    found: dict[int, list[float]] = {}
    for item in target.items_of(id, shot, place):
        if item.row.get(seed) is not None and item.scores.get(value) is not None:
            found.setdefault(item.row[seed], []).append(item.scores[value])
    return {number: float(np.mean(scores)) for number, scores in found.items()}


def _priors(target: Target) -> Iterator[dict[str, Any]]:
    """Cross-entropies of the priors that Table 4 prints."""
    host, all_ = target.host, target.results.priors
    for shot in target.shots:
        start = _start(target, "table4", host, shot, "nats a pixel")
        for prior, values in published("table4").items():
            own = all_[(all_["on"] == host) & (all_["shot"] == shot) & (all_["prior"] == prior)]
            own = own[own["fold"].isin(target.folds) & own["eval_seed"].isin(target.baseline_seeds)]
            folds = own.groupby("fold")["bce"].mean()
            for column, paper in zip((*FOLDS, MEAN), values["mean"], strict=True):
                row = start | {"method": f"prior {prior}", "column": column, "paper": paper, "ours": np.nan}
                fold = None if column == MEAN else FOLDS.index(column)
                if fold is None and len(folds):
                    row["ours"] = folds.mean()
                    drawn = target.mean_samples(table4.baseline(target, prior), shot, "bce")
                elif fold in folds.index:
                    row["ours"] = folds[fold]
                    drawn = target.samples(table4.baseline(target, prior), shot, fold, "bce")
                else:
                    yield row
                    continue
                ends = (np.nan, np.nan) if drawn is None else drawn.interval()
                row |= dict(zip(OVER_IMAGES, ends, strict=True))
                part = own if fold is None else own[own["fold"] == fold]
                seeds = part.groupby("eval_seed")["bce"].mean()
                row["evaluation deviation"] = seeds.std(ddof=1) if len(seeds) > 1 else np.nan
                yield row | _some_folds(target, row)


def _masked(target: Target, id: str, shot: int) -> Iterator[dict[str, Any]]:
    """Mask ratios of the blocks that Table 5 prints."""
    if shot != 1:
        return
    start = _start(target, "table5", id, shot, "% of cells")
    for block, known in enumerate(ratios.printed_ratios(target, id)):
        cells = [ratios.by_seed(target, id, shot, fold, block) for fold in range(len(FOLDS))]
        means = [float(np.mean(list(cell.values()))) if cell else np.nan for cell in cells]
        for column, paper in known.items():
            run = [means[fold] for fold in target.folds if fold < len(FOLDS)]
            ours = float(np.mean(run)) if column == MEAN else means[FOLDS.index(column)]
            row = start | {"column": f"block {block}, {column}", "paper": paper, "ours": ours}
            if column != MEAN and (own := cells[FOLDS.index(column)]):
                row |= dict(zip(OVER_SEEDS, seed_interval(list(own.values())), strict=True))
                row["seeds"] = len(own)
            yield row | _some_folds(target, row)
