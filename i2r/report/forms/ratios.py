"""How much the attention masks cover, at test as in the paper's Table 5, and in training as in its Figure S3."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from i2r.config.readings import says
from i2r.paper.published import FOLDS, MEAN, published
from i2r.report import figures
from i2r.report.forms.shown import Figure, Shown, not_of_table, paper_note, title_of
from i2r.report.target import Target
from i2r.report.text import Grid, number

DIGITS = 4  # of a percentage: DICM masks less than one cell in a column


def show(target: Target) -> Shown:
    """The target as Table 5, and the ratios by training step as in Figure S3."""
    curves = target.results.curves
    own = curves[curves["method"].isin(target.trained) & curves["shot"].isin(target.shots)]
    drawn = []
    own = own[own["mask_ratio"].fillna(0) > 0] if "mask_ratio" in own else own[:0]
    for dataset, part in own.groupby("dataset"):
        part = part.assign(mask_ratio=100 * part["mask_ratio"].astype(float))
        names = {id: target.labels[id] for id in target.trained}
        draw = partial(
            figures.training_curves, part, "mask_ratio", "masked cells, % (smoothed)", names, log=True
        )
        caption = f"Cells of the cross-attention maps that the mask covers in training, mean of the blocks, {dataset}."
        drawn.append(Figure(f"{target.name}-{dataset}", caption, draw))
    return Shown(target.form, title_of(target), frame(target), grids(target), [], drawn)


def printed_ratios(target: Target, id: str) -> list[dict[str, float]]:
    """The columns that Table 5 prints for a method's mask, by block; empty for other masks."""
    method = target.method(id)
    mask = method["params"]["network"].get("mask")
    mask = "dicm" if mask == says(method["reading"])["network.mask"] else mask
    return [dict(zip((*FOLDS, MEAN), row, strict=True)) for row in published("table5").get(mask, [])]


def by_seed(target: Target, id: str, shot: int, fold: int, block: int) -> dict[int, float]:
    """Masked cells in percent for each training seed, means over evaluation seeds; {} without a mask or a run."""
    found: dict[int, list[float]] = {}
    for item in target.items_of(id, shot, fold):
        ratios = item.scores.get("mask_ratio") or []
        if block < len(ratios):
            found.setdefault(item.row["seed"], []).append(100 * ratios[block])
    return {seed: float(np.mean(values)) for seed, values in found.items()}


def blocks(target: Target, id: str) -> int:
    """Number of blocks whose ratio was measured."""
    return max(
        (len(item.scores.get("mask_ratio") or []) for item in target.items if item.id == id), default=0
    )


def frame(target: Target) -> pd.DataFrame:
    """One row a block: dataset, shot, method, block from 1 on, fold-F ..., mean (percent of cells), and as printed."""
    rows = []
    for id in target.trained:
        printed = printed_ratios(target, id)
        for shot in target.shots:
            for block in range(blocks(target, id)):
                row = {"dataset": target.dataset(id), "shot": shot, "method": id, "block": block + 1}
                cells = [list(by_seed(target, id, shot, fold, block).values()) for fold in target.folds]
                means = [float(np.mean(values)) if values else np.nan for values in cells]
                row |= {f"fold-{fold}": mean for fold, mean in zip(target.folds, means, strict=True)}
                row[MEAN] = float(np.mean(means))
                known = printed[block] if block < len(printed) and shot == 1 else {}
                row |= {f"paper {column}": known.get(column, np.nan) for column in (*FOLDS, MEAN)}
                rows.append(row)
    start = ["dataset", "shot", "method", "block"]
    columns = [
        *start,
        *(f"fold-{fold}" for fold in target.folds),
        MEAN,
        *(f"paper {c}" for c in (*FOLDS, MEAN)),
    ]
    return pd.DataFrame(rows, columns=columns)


def grids(target: Target) -> list[Grid]:
    """Cells that the mask would cover at test, in percent, by block, in the form of the paper's Table 5."""
    table = frame(target)
    if table.empty:
        return []
    notes = {id: not_of_table(target, id, 1, "table5") for id in dict.fromkeys(table["method"])}
    shots = len(target.shots) > 1
    folds = [f"fold-{fold}" for fold in target.folds]
    papers = [id for id, found in notes.items() if not found and printed_ratios(target, id)]
    header = [
        "Method",
        *(["Shots"] if shots else []),
        "Block",
        *(f"Fold {fold}" for fold in target.folds),
        "Mean",
    ]
    grid = Grid([("", name) for name in header], [], title="Mask ratio (form of the paper's Table 5)")
    if papers:
        grid.header.append(("", "paper, mean"))
    for row in table.to_dict("records"):
        texts = [target.labels[row["method"]], *([str(row["shot"])] if shots else []), str(row["block"])]
        texts += [number(row[name], DIGITS) for name in (*folds, MEAN)]
        paper = row[f"paper {MEAN}"] if row["method"] in papers else np.nan
        grid.rows.append(texts + ([number(paper, DIGITS)] if papers else []))
    grid.note = (
        "Percent of the cells of each cross-attention map that the method's mask would cover, measured at test with "
        f"the true query mask; the mask is not applied. {paper_note(target, notes)}"
    )
    return [grid]
