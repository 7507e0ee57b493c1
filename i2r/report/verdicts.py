"""The first section of the report: the paper's claims and numbers with their verdicts, and the audit of its sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from i2r.config.paper_targets import paper_files
from i2r.files import write_text
from i2r.paper.audit import audit
from i2r.report import cells, claims
from i2r.report.target import Target
from i2r.report.text import DASH, Grid, bracket, counted, number, points

DIGITS = {"nats a pixel": 3, "% of cells": 3, "seconds an episode": 3}  # of a unit; others have one
VERDICTS = ("reproduced", "higher", "lower", "not comparable", "not run", "not possible")


def write(out: Path, targets: Sequence[Target]) -> list[Grid]:
    """Write claims.csv, claims.md (with the audit) and cells.csv; returns those of claims and cells."""
    said, compared = claims.table(targets), cells.table(targets)
    said.to_csv(out / "claims.csv", index=False, float_format="%.4f")
    compared.to_csv(out / "cells.csv", index=False, float_format="%.4f")
    params = targets[0].results.params["report"] if targets else {}
    found = [grid for grid in (claims_grid(said, params), cells_grid(compared, params)) if grid.rows]
    write_text(
        out / "claims.md", "# Claims\n\n" + "\n".join(grid.markdown() for grid in (*found, audit_grid()))
    )
    return found


def claims_grid(said: pd.DataFrame, params: Mapping) -> Grid:
    """One row a claim; of several comparisons the smallest difference and how many are supported."""
    header = [
        "Claim",
        "In the paper",
        "Target",
        "Paper",
        "Here [95 %, pictures]",
        "[95 %, training seeds]",
        "Verdict",
    ]
    grid = Grid([("", name) for name in header], [], words=3, title="Claims of the paper")
    for (target, claim), own in said.groupby(["target", "claim"], sort=False):
        row = own.loc[own["difference"].idxmin()] if own["difference"].notna().any() else own.iloc[0]
        digits = DIGITS.get(row["unit"], 1)
        several = f"smallest of {len(own)}: " if len(own) > 1 and pd.notna(row["difference"]) else ""
        here = points(*(row[name] for name in ("difference", "pictures low", "pictures high")), digits=digits)
        grid.rows.append([
            claim,
            row["where"],
            target,
            points(row["paper"], digits=max(digits, 2)) if pd.notna(row["paper"]) else DASH,
            several + here,
            bracket(row["seeds low"], row["seeds high"], digits),
            row["verdict of the claim"],
        ])  # fmt: skip
    if params:
        grid.note = (
            "Differences are positive where the claim holds, in points of mIoU unless it speaks of something else. A "
            "verdict needs three training seeds (of priors, which are not trained: evaluation seeds), and holds over "
            "pictures and over seeds; p values are adjusted for all comparisons of the page (Holm). Up to "
            f"{params['equivalence']:g} points, or {100 * params['reproduced_share']:g} % of other units, count as no "
            "difference. A claim with several comparisons is supported if all of them are; claims.csv has each."
        )
    return grid


def cells_grid(compared: pd.DataFrame, params: Mapping) -> Grid:
    """How many numbers of each table are reproduced, and the means beside the paper's."""
    header = [
        "Table",
        "Data",
        "Shots",
        "Method",
        "Column",
        "Unit",
        "Ours [95 %, pictures]",
        "[95 %, training seeds]",
    ]
    header += ["sd over evaluation seeds", "Paper", "Difference", "Verdict"]
    grid = Grid([("", name) for name in header], [], words=6, title="The paper's numbers and ours")
    shown = compared[compared["column"].isna() | compared["column"].str.endswith("mean")]
    for row in shown.to_dict("records"):
        digits = DIGITS.get(row["unit"], 1)
        ends = bracket(row["pictures low"], row["pictures high"], digits)
        ours = number(row["ours"], digits) + ("" if ends == DASH else f" {ends}")
        why = (
            f": {row['why']}"
            if row["verdict"] in ("not comparable", "not possible", "not run") and row["why"]
            else ""
        )
        words = [row["target"], row["dataset"], row["shot"], row["method"], row["column"], row["unit"]]
        grid.rows.append([
            *("" if pd.isna(word) else str(word) for word in words),
            ours,
            bracket(row["seeds low"], row["seeds high"], digits),
            number(row["evaluation deviation"], digits + 1),
            number(row["paper"], max(digits, 2)),
            points(row["difference"], digits=digits),
            row["verdict"] + why,
        ])  # fmt: skip
    counts = compared["verdict"].value_counts()
    said = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if name in counts)
    if params:
        grid.note = (
            f"{counted(len(compared), 'number')} of the paper's tables, folds included (cells.csv): {said}. "
            f"Reproduced: within {params['reproduced']:g} points, or {100 * params['reproduced_share']:g} % of other "
            "units, as declared in params."
        )
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
