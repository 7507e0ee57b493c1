"""Effect of each component, in the form of the paper's Table 3."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from i2r.metrics.statistics import seed_interval
from i2r.paper.published import claimed, components, table3, table3_row
from i2r.report import figures
from i2r.report.forms import ratios
from i2r.report.forms.shown import (
    IMAGES,
    SEEDS,
    Figure,
    Shown,
    compared_grid,
    departed,
    not_of_table,
    prefixed,
    rests_on,
    setting,
    suffix,
    tta_gains,
)
from i2r.report.target import SPREADS, Target
from i2r.report.text import Grid, bracket, folds_said, listed, points

SHOT = 1  # of the paper's Table 3
WORDS = ["dataset", "shot", "method", "row", "pmgm", "support", "mask", "mask_test", "differs"]


def show(target: Target) -> Shown:
    """The target as Table 3, with a table for each data set and shot."""
    frames, grids, sentences, drawn = [], [], [], []
    for dataset, shot in product(target.datasets, target.shots):
        notes = {id: not_of_table(target, id, shot) for id in methods(target, dataset)}
        table = ablation_frame(target, dataset, shot, notes)
        frames.append(table)
        first = reference(target, dataset)
        grids.append(compared_grid(target, dataset, shot, table, notes, first, component_words(target)))
        if shot == SHOT and (gains := gains_grid(target, table)).rows:
            grids.append(gains)
        sentences += [prefixed(target, dataset, shot, text) for text in tta_gains(target, dataset, shot)]
        where = setting(target, dataset, shot)
        caption = f"mIoU with and without components{f', {where}' if where else ''}."
        ids = methods(target, dataset)
        panels = {name: panel.loc[ids] for name, panel in target.panels(dataset, shot).items()}
        draw = partial(figures.score_bars, panels, ids, target.colours, target.labels)
        drawn.append(Figure(f"{target.name}{suffix(target, dataset, shot)}", caption, draw))
    grids += ratios.grids(target)
    title = f"Effect of each component, {listed(target.datasets)} (form of the paper's Table 3)"
    return Shown("ablation", title, pd.concat(frames, ignore_index=True), grids, sentences, drawn)


def methods(target: Target, dataset: str) -> list[str]:
    return [id for id in target.of(dataset) if "@" not in id]


# --- the table -------------------------------------------------------------------------------------------------


def reference(target: Target, dataset: str) -> str:
    """The method with which the others are compared: the first with all of the paper's components, else the first."""
    ids = methods(target, dataset)
    return next((id for id in ids if table3_row(parts_of(target, id)) == "full"), ids[0])


def parts_of(target: Target, id: str):
    method = target.method(id)
    return components(method["params"], method["reading"])


def ablation_frame(target: Target, dataset: str, shot: int, notes: dict[str, list[str]]) -> pd.DataFrame:
    """One row for each method; `difference` is to `reference`, `row` is the paper's row with the same components.

    Columns: WORDS (differs: in what the setting is not the published one), fold-F ..., mean, SPREADS, difference,
    difference low, difference high, paper (if comparable), published (the paper's number in any case).
    pmgm holds the method's prior.
    """
    full, cells, rows = reference(target, dataset), target.table(dataset, shot), []
    for id in methods(target, dataset):
        method, parts = target.method(id), parts_of(target, id)
        network, row = method["params"]["network"], table3_row(parts)
        values = {"dataset": dataset, "shot": shot, "method": id, "row": row}
        values |= {"pmgm": network.get("prior", ""), "support": network.get("support_branch", False)}
        values["mask"] = parts.mask if parts else network.get("mask", "")
        values["mask_test"] = method["params"]["evaluate"]["mask"] if "mask" in network else ""
        values["differs"] = "; ".join(notes[id] or departed(target, id))
        values |= {f"fold-{f}": cells.at[id, f] for f in target.folds}
        values |= {name: cells.at[id, name] for name in ("mean", *SPREADS)}
        gained = target.difference(id, full, shot) if id != full else (np.nan,) * 3
        values |= dict(zip(("difference", "difference low", "difference high"), gained, strict=True))
        values["published"] = table3(row) if row else np.nan
        values["paper"] = np.nan if notes[id] else values["published"]
        rows.append(values)
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table.columns if name not in WORDS})


def component_words(target: Target) -> dict[str, Callable[[dict], str]]:
    """The columns of Table 3 before its numbers: header -> text for a row of `ablation_frame`."""
    return {
        "Method": lambda row: target.labels[row["method"]],
        "Prior": lambda row: row["pmgm"],
        "Support branch": lambda row: "✓" if row["support"] else "",
        "Mask, training": lambda row: "" if row["mask"] in ("", "none") else row["mask"],
        "Mask, test": lambda row: "" if row["mask_test"] in ("", "none") else row["mask_test"],
    }


# --- the paper's gains -----------------------------------------------------------------------------------------


def gains_grid(target: Target, table: pd.DataFrame) -> Grid:
    """The paper's gains from each component, and ours between methods of the same rows; with several, every pair."""
    header = ["Adding", "Compared", "paper", f"here {IMAGES}", SEEDS]
    shot = int(table["shot"].iloc[0])
    over = target.over(table["dataset"].iloc[0], shot)
    where = folds_said(over) if over else "no fold"
    note = f"Points of mIoU on {where}; the paper's are means of the four folds of PASCAL-5i with ResNet-50."
    rests = rests_on(target, list(table["method"]), shot)
    note += f" Our numbers: {rests}." if rests else ""
    note += " The verdicts are among the claims of the paper, adjusted for all of them."
    grid = Grid(
        [("", name) for name in header], [], words=2, title="Do the paper's components help here?", note=note
    )
    ids = table.dropna(subset=["mean"])["method"]
    claims = claimed({id: (target.method(id)["params"], target.method(id)["reading"]) for id in ids})
    for adding, ours, theirs, paper in claims:
        gained = points(*target.difference(ours, theirs, shot))
        seeds = seed_interval(target.seed_differences(ours, theirs, shot))
        what = f"{target.labels[ours]} − {target.labels[theirs]}"
        grid.rows.append([adding, what, f"{paper:+.2f}", gained, bracket(*seeds)])
    return grid
