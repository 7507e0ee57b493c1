"""Variants of I2R, one row each: the paper's Tables 6, S1 and S2, and its Figures 4 and 5."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from i2r.paper.published import MEAN, components, printed, table3_row, threshold
from i2r.report import figures
from i2r.report.forms.shown import (
    ENDS,
    Figure,
    Shown,
    compared_grid,
    departed,
    not_of_table,
    setting,
    suffix,
    table_of,
    title_of,
)
from i2r.report.target import SPREADS, Target
from i2r.report.text import Grid, number

MEASURES = {"table-s2": ("fb_iou", "FB-IoU")}  # form: column of scores.json, name; the others show mIoU
WORDS = ["dataset", "shot", "method", "differs"]


def show(target: Target) -> Shown:
    """The target in its form, with a table for each data set and shot."""
    frames, grids, drawn = [], [], []
    for dataset, shot in product(target.datasets, target.shots):
        ids = [id for id in target.of(dataset) if "@" not in id]
        notes = {id: not_of_table(target, id, shot, table_of(target)) for id in ids}
        table = variants_frame(target, dataset, shot, notes)
        frames.append(table)
        words = {"Method": lambda row: target.labels[row["method"]]}
        first, (_, name) = reference(target, ids), measure(target)
        grids.append(compared_grid(target, dataset, shot, table, notes, first, words, name))
        if target.form == "table-s1":
            grids.append(decoder_grid(target, table))
        drawn += figure_of(target, dataset, shot, table)
    return Shown(target.form, title_of(target), pd.concat(frames, ignore_index=True), grids, [], drawn)


def measure(target: Target) -> tuple[str, str]:
    """Column of scores.json and name of the measure that the form shows."""
    return MEASURES.get(target.form, ("miou", "mIoU"))


def reference(target: Target, ids: list[str]) -> str:
    """The method with which the others are compared: of those with all components that with which the paper is best."""

    def full(id: str) -> bool:
        method = target.method(id)
        return table3_row(components(method["params"], method["reading"])) == "full"

    chosen = [id for id in ids if full(id)] or ids
    means = pd.Series({id: printed_mean(target, id, target.shots[0]) for id in chosen})
    return chosen[0] if means.isna().all() else means.idxmax()


def printed_mean(target: Target, id: str, shot: int) -> float:
    """The mean that the paper's table prints for a method; NaN if it prints none."""
    method = target.method(id)
    return printed(table_of(target), method["params"], method["reading"], shot).get(MEAN, np.nan)


def variants_frame(target: Target, dataset: str, shot: int, notes: dict[str, list[str]]) -> pd.DataFrame:
    """One row for each method: WORDS, fold-F ..., mean, SPREADS, ENDS (to `reference`), paper, published.

    In percent; paper: the published number if it is comparable; differs: in what the setting is not the published one.
    """
    value, _ = measure(target)
    cells, rows, first = target.table(dataset, shot, value), [], reference(target, list(notes))
    for id, found in notes.items():
        row = {
            "dataset": dataset,
            "shot": shot,
            "method": id,
            "differs": "; ".join(found or departed(target, id)),
        }
        row |= {f"fold-{fold}": cells.at[id, fold] for fold in target.folds}
        row |= {name: cells.at[id, name] for name in (MEAN, *SPREADS)}
        gained = target.difference(id, first, shot, value) if id != first else (np.nan,) * 3
        row |= dict(zip(ENDS, gained, strict=True))
        row["published"] = printed_mean(target, id, shot)
        row["paper"] = np.nan if found else row["published"]
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table.columns if name not in WORDS})


def decoder_grid(target: Target, table: pd.DataFrame) -> Grid:
    """Table S1 as printed: decoders by cross-attention blocks, ours and in brackets the paper's number."""
    at = {}
    for row in table.to_dict("records"):
        network = target.method(row["method"])["params"]["network"]
        at[network["blocks"], network["cross"]] = f"{number(row[MEAN])} ({number(row['published'])})"
    decoders, crossed = (sorted({place[axis] for place in at}) for axis in (0, 1))
    header = [("", "Cross-attention blocks"), *(("Decoders", str(count)) for count in decoders)]
    grid = Grid(header, [[str(c), *(at.get((d, c), "") for d in decoders)] for c in crossed])
    grid.title = "Decoders by cross-attention blocks"
    grid.note = "Ours, and in brackets the paper's on PASCAL-5i with ResNet-50."
    return grid


def figure_of(target: Target, dataset: str, shot: int, table: pd.DataFrame) -> list[Figure]:
    """Figures 4 and 5 as a line over what is varied, the others as bars; none for FB-IoU."""
    name, where = f"{target.name}{suffix(target, dataset, shot)}", setting(target, dataset, shot)
    ids = list(table["method"])
    if target.form in ("figure4", "figure5"):
        axis = "decoder blocks" if target.form == "figure4" else "CAM threshold at test"
        places = {id: place(target, id) for id in ids}
        line = table.assign(x=table["method"].map(places)).rename(
            columns={"mean low": "low", "mean high": "high"}
        )
        caption = f"mIoU by {axis}{f', {where}' if where else ''}; bars: 95 % over images."
        return [Figure(name, caption, partial(figures.line, line, axis, "mIoU, %"))]
    if target.form == "table-s2":
        return []
    panels = {title: panel.loc[ids] for title, panel in target.panels(dataset, shot).items()}
    caption = f"mIoU of the variants{f', {where}' if where else ''}."
    return [Figure(name, caption, partial(figures.score_bars, panels, ids, target.colours, target.labels))]


def place(target: Target, id: str) -> float | str | None:
    """What a method has of the quantity that its figure varies."""
    sections = target.method(id)["params"]
    return sections["network"].get("blocks") if target.form == "figure4" else threshold(sections)
