"""The first section of the report: the paper's claims and numbers with their verdicts, and the audit of its sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from i2r.config.paper_targets import paper_files
from i2r.paper.audit import audit
from i2r.report import cells, claims
from i2r.report.forms.shown import IMAGES, SEEDS
from i2r.report.target import Target
from i2r.report.text import DASH, Grid, bracket, counted, number, points

DIGITS = {"nats a pixel": 3, "% of cells": 3, "seconds an episode": 3}  # of a unit; others have one
VERDICTS = ("reproduced", "higher", "lower", "not comparable", "not run", "not possible")


def write(out: Path, targets: Sequence[Target]) -> list[Grid]:
    """Write claims.csv and cells.csv, and return their tables."""
    said, compared = claims.table(targets), cells.table(targets)
    said.to_csv(out / "claims.csv", index=False, float_format="%.4f")
    compared.to_csv(out / "cells.csv", index=False, float_format="%.4f")
    params = targets[0].results.params["report"] if targets else {}
    found = claims_grid(said, params), counts_grid(compared, params), cells_grid(compared)
    return [grid for grid in found if grid.rows]


def claims_grid(said: pd.DataFrame, params: Mapping) -> Grid:
    """One row a claim; of several comparisons the smallest difference and how many are supported."""
    header = ["Claim", "Verdict", "In the paper", "Target", "Paper", f"Here {IMAGES}", SEEDS]
    grid = Grid([("", name) for name in header], [], words=4)
    for (target, claim), own in said.groupby(["target", "claim"], sort=False):
        row = own.loc[own["difference"].idxmin()] if own["difference"].notna().any() else own.iloc[0]
        digits = DIGITS.get(row["unit"], 1)
        several = f"smallest of {len(own)}: " if len(own) > 1 and pd.notna(row["difference"]) else ""
        here = points(*(row[name] for name in ("difference", "images low", "images high")), digits=digits)
        line = [
            claim,
            row["verdict of the claim"],
            row["where"],
            target,
            points(row["paper"], digits=max(digits, 2)) if pd.notna(row["paper"]) else DASH,
            several + here,
            bracket(row["seeds low"], row["seeds high"], digits),
        ]
        grid.rows.append(line)
    if params:
        grid.note = (
            "Differences are positive where the claim holds, in points of mIoU unless it speaks of something else. A "
            "verdict needs three training seeds (of priors, which are not trained: evaluation seeds), and holds over "
            "images and over seeds; p values are adjusted for all comparisons of the page (Holm). The seeds that an "
            "undecided difference would need are those of a single comparison, before the adjustment. Differences of "
            f"up to {_margin(params, 'equivalence')} count as none. A claim with several comparisons is supported if "
            "all of them are; claims.csv has each."
        )
    return grid


def counts_grid(compared: pd.DataFrame, params: Mapping) -> Grid:
    """How many numbers of each table are reproduced, and what keeps the others from being compared."""
    kinds = [name for name in VERDICTS if (compared["verdict"] == name).any()]
    grid = Grid([("", name) for name in ("Target", *kinds)], [], title="The paper's numbers and ours")
    for target, own in compared.groupby("target", sort=False):
        grid.rows.append([target, *(str((own["verdict"] == name).sum()) for name in kinds)])
    apart = compared[compared["verdict"].isin(("not comparable", "not possible"))]
    reasons = [why for text in apart["why"] for why in text.split("; ")]
    if params:
        grid.note = (
            f"{counted(len(compared), 'number')} of the paper's tables, those of folds included; cells.csv has each. "
            f"Reproduced: within {_margin(params, 'reproduced')}, as declared in params. "
        )
        grid.note += f"What differs: {'; '.join(dict.fromkeys(reasons))}." if reasons else ""
    return grid


def _margin(params: Mapping, name: str) -> str:
    """`1 point, or 10 % in other units`."""
    points = params[name]
    return f"{points:g} point{'' if points == 1 else 's'}, or {100 * params['reproduced_share']:g} % in other units"


def cells_grid(compared: pd.DataFrame) -> Grid:
    """The numbers that can be compared, beside the paper's; of tables by fold only the means."""
    header = [
        "Target",
        "Verdict",
        "Method",
        "Shots",
        "Column",
        f"Ours {IMAGES}",
        SEEDS,
    ]
    header += ["sd over evaluation seeds", "Paper", "Difference", "Unit"]
    grid = Grid([("", name) for name in header], [], words=3, title="Numbers that can be compared")
    own = compared[compared["verdict"].isin(("reproduced", "higher", "lower"))]
    for row in own[own["column"].str.endswith("mean")].to_dict("records"):
        digits = DIGITS.get(row["unit"], 1)
        ends = bracket(row["images low"], row["images high"], digits)
        line = [
            *(str(row[name]) for name in ("target", "verdict", "method", "shot", "column")),
            number(row["ours"], digits) + ("" if ends == DASH else f" {ends}"),
            bracket(row["seeds low"], row["seeds high"], digits),
            number(row["evaluation deviation"], digits + 1),
            number(row["paper"], max(digits, 2)),
            points(row["difference"], digits=digits),
            row["unit"],
        ]
        grid.rows.append(line)
    return grid


def audit_grid() -> Grid:
    """Whether what the paper prints follows from its own tables."""
    header = ["Where", "What", "Printed", "Computed", "Follows", "Note"]
    grid = Grid([("", name) for name in header], [], words=2, title="Audit of the published numbers")
    for row in audit():
        digits = 1 + len((row.printed or "").partition(".")[2])
        follows = {True: "yes", False: "no", None: DASH}[row.follows]
        grid.rows.append(
            [row.where, row.says, row.printed or DASH, f"{row.computed:.{digits}f}", follows, row.note]
        )
    remarks = " ".join(paper_files()["audit"]["remarks"])
    grid.note = f"Computed from the published tables (i2r/paper/audit.yaml). Nothing is corrected. {remarks}"
    return grid
