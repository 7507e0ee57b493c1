"""Quality of the prior maps, in the form of the paper's Table 4, and of the CAMs that they are made of."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from functools import partial

import numpy as np
import pandas as pd

from i2r.paper.published import table4
from i2r.report import figures
from i2r.report.classes import class_names
from i2r.report.finished import Finished
from i2r.report.forms.shown import (
    BRACKETS,
    IMAGES,
    Figure,
    Shown,
    not_of_table,
    paper_note,
    prefixed,
    setting,
    suffix,
)
from i2r.report.target import Target
from i2r.report.text import Grid, bracket, listed, number, points, with_deviation

EMBEDDED = "embedding"
PRIORS = {
    "bam": "BAM's (baseline)",
    "pmgm": "PMGM (I²R)",
    "ordered": "PMGM ordered (ours)",
    "mean": "one prototype",
    "constant": "constant",
    EMBEDDED: "PMGM + embedding (released)",
}
MEASURES = {  # title, digits, whether lower is better
    "bce": ("Cross-entropy between prior and mask (the paper's measure; lower is better)", 4, True),
    "bce_calibrated": ("Cross-entropy after calibration on training classes (lower is better)", 4, True),
    "bce_background": ("Cross-entropy with unknown pixels as background (lower is better)", 4, True),
    "ap": ("Average precision in percent (does not depend on calibration)", 1, False),
    "iou_best": ("IoU in percent at the best threshold, chosen on the test episodes themselves", 1, False),
}


def show(target: Target) -> Shown:
    """The target as Table 4, on the frozen networks of the method that its baselines name."""
    on = f", {target.dataset(target.host)}" if target.host else ""
    title = f"Quality of the priors{on} (form of the paper's Table 4)"
    columns = ["shot", "measure", "prior", *numbers_of(target)]
    if target.host is None:
        return Shown(
            "priors",
            title,
            pd.DataFrame(columns=columns),
            [],
            ["The target has no baselines, so no priors were measured."],
        )
    frames, grids, sentences, drawn = [], [], [], []
    dataset = target.dataset(target.host)
    for shot in target.shots:
        notes = {target.host: not_of_table(target, target.host, shot)}
        table = prior_frame(target, shot, comparable=not notes[target.host])
        frames.append(table)
        if table.empty:
            continue
        grids += prior_grids(target, shot, table, notes)
        sentences += [prefixed(target, dataset, shot, text) for text in verdicts(table)]
        where = setting(target, dataset, shot)
        caption = f"Quality of the prior maps{f', {where}' if where else ''}."
        draw = partial(
            figures.prior_dots, table, target.folds, PRIORS, {m: v[2] for m, v in MEASURES.items()}
        )
        drawn.append(Figure(f"{target.name}{suffix(target, dataset, shot)}", caption, draw))
    grids += [*drawn_grids(target), *cam_grids(target)]
    frame = pd.concat(frames, ignore_index=True)
    return Shown("priors", title, frame, grids, sentences, drawn)


def prior_frame(target: Target, shot: int, comparable: bool) -> pd.DataFrame:
    """Columns: shot, measure, prior, then those of `numbers_of`.

    deviation: of a fold or of the mean, over evaluation seeds; difference: from BAM's prior; low and high: 95 % over
    images; paper: its mean, if comparable.
    """
    all_ = target.results.priors
    own = all_[(all_["on"] == target.host) & (all_["shot"] == shot) & all_["fold"].isin(target.folds)]
    own = own[own["eval_seed"].isin(target.baseline_seeds)]
    rows = []
    for measure in MEASURES:
        grouped = own.groupby(["prior", "fold"])[measure]
        cells = grouped.mean().unstack("fold").reindex(columns=target.folds)
        spreads = grouped.std(ddof=1).unstack("fold").reindex(columns=target.folds)
        over = [fold for fold in target.folds if cells[fold].notna().any()]
        for prior in [*PRIORS, *sorted(set(cells.index) - set(PRIORS))]:
            if prior not in cells.index:
                continue
            means = own[own["prior"] == prior].groupby("eval_seed")[measure].mean()
            row = {"shot": shot, "measure": measure, "prior": prior}
            row |= {f"fold-{fold}": cells.at[prior, fold] for fold in target.folds}
            row |= {f"fold-{fold} deviation": spreads.at[prior, fold] for fold in target.folds}
            row["mean"] = cells.loc[prior, over].mean(skipna=False) if over else np.nan
            row["deviation"] = means.std(ddof=1) if len(means) > 1 else np.nan
            row["paper"] = table4(prior) if comparable and measure == "bce" else None
            scale = 100 if measure == "ap" else 1
            row |= intervals(target, shot, measure, prior, scale)
            if {"bam", prior} <= set(cells.index) and prior != "bam":
                row["difference"] = row["mean"] - cells.loc["bam", over].mean(skipna=False)
            rows.append(row)
    numbers = numbers_of(target)
    table = pd.DataFrame(rows, columns=["shot", "measure", "prior", *numbers])
    return table.astype(dict.fromkeys(numbers, float))


def numbers_of(target: Target) -> list[str]:
    ends = ["low", "high", "difference", "difference low", "difference high"]
    folds = [f"fold-{fold}{end}" for fold in target.folds for end in ("", " deviation")]
    return [*folds, "mean", "deviation", *ends, "paper"]


def intervals(target: Target, shot: int, measure: str, prior: str, scale: float) -> dict[str, float]:
    """Ends of the intervals of a prior's mean and of its difference from BAM's; {} for a measure that is no mean over
    episodes."""
    if measure == "iou_best":
        return {}
    drawn = {name: target.mean_samples(baseline(target, name), shot, measure) for name in (prior, "bam")}
    found = {}
    if drawn[prior] is not None:
        found |= dict(zip(("low", "high"), (scale * end for end in drawn[prior].interval()), strict=True))
    if prior != "bam" and None not in drawn.values():
        ends = (drawn[prior] - drawn["bam"]).interval()
        found |= dict(zip(("difference low", "difference high"), (scale * end for end in ends), strict=True))
    return found


def baseline(target: Target, prior: str) -> str:
    """The id whose episodes have the measures of a prior."""
    return f"{'foreground' if prior == 'constant' else f'prior-{prior}'}@{target.host}"


def prior_grids(target: Target, shot: int, table: pd.DataFrame, notes: dict[str, list[str]]) -> list[Grid]:
    """A table for each measure."""
    grids, several = [], len(target.folds) > 1
    where = setting(target, target.dataset(target.host), shot)
    for measure, (title, digits, lower) in MEASURES.items():
        own = table[table["measure"] == measure]
        papers = own["paper"].notna().any()
        drawn = own["low"].notna().any()
        names = ["Prior", *(f"Fold {fold}" for fold in target.folds), *(["Mean"] if several else [])]
        more = [IMAGES, f"vs. BAM's {IMAGES}"] if drawn else []
        grid = Grid([("", name) for name in names + more + (["paper, mean"] if papers else [])], [])
        grid.title = f"{title}{f', {where}' if where else ''}"
        for row in own.to_dict("records"):
            texts = [
                with_deviation(row[f"fold-{fold}"], row[f"fold-{fold} deviation"], digits)
                for fold in target.folds
            ]
            texts += [with_deviation(row["mean"], row["deviation"], digits)] if several else []
            if drawn:
                gained = (row[name] for name in ("difference", "difference low", "difference high"))
                texts += [bracket(row["low"], row["high"], digits), points(*gained, digits=digits)]
            texts += [number(row["paper"], digits)] if papers else []
            grid.rows.append([PRIORS.get(row["prior"], row["prior"]), *texts])
        grid.mark(len(names) - 1, -own["mean"] if lower else own["mean"])
        grids.append(grid)
    seeds = len(target.baseline_seeds)
    deviation = f"±: standard deviation over {seeds} evaluation seeds. " if seeds > 1 else ""
    deviation += (
        "The constant prior is the share of object pixels in episodes of the training classes; calibration is a rising "
        "map of each prior's values, fitted there. "
    )
    grids[-1].note = f"{deviation}{BRACKETS} {paper_note(target, notes)}"
    return grids


def verdicts(table: pd.DataFrame) -> list[str]:
    """The best prior by each measure, and PMGM's compared with BAM's."""
    means = table.pivot(index="measure", columns="prior", values="mean")
    if means.isna().all(axis=None):
        return []
    names = {
        "bce": "cross-entropy",
        "bce_calibrated": "calibrated cross-entropy",
        "ap": "average precision",
        "iou_best": "IoU at the best threshold",
    }
    parts = []
    for measure in names:
        _, digits, lower = MEASURES[measure]
        own = means.loc[measure].dropna()
        if len(own):
            best = own.idxmin() if lower else own.idxmax()
            parts.append(f"**{PRIORS.get(best, best)}** by {names[measure]} ({own[best]:.{digits}f})")
    out = [f"The best prior map is {', '.join(parts)}."]
    if {"pmgm", "bam"} <= set(means.columns) and means[["pmgm", "bam"]].notna().all(axis=None):
        lower = "lower" if means.at["bce", "pmgm"] < means.at["bce", "bam"] else "higher"
        paper = "lower" if table4("pmgm") < table4("bam") else "higher"
        pairs = [
            f"{names[measure]} {number(means.at[measure, 'pmgm'], digits)} against "
            f"{number(means.at[measure, 'bam'], digits)}"
            for measure, digits in (("bce_calibrated", 3), ("ap", 1), ("iou_best", 1))
        ]
        out.append(
            f"PMGM's prior has a {lower} cross-entropy than BAM's "
            f"({'as in the paper' if paper == lower else f'in the paper a {paper} one'}); "
            f"{listed(pairs)}."
        )
    return out


# --- the random embedding --------------------------------------------------------------------------------------


def drawn_grids(target: Target) -> list[Grid]:
    """PMGM's prior with each of the random embeddings: means over evaluation seeds, by shot, fold and measure."""
    columns = ("without", "mean over draws", "lowest", "highest")
    grid = Grid([("", name) for name in ("Shot", "Fold", "Measure", *columns)], [], words=3)
    shares = []
    for (shot, fold), jobs in baseline_jobs(target).items():
        scores = [job.json("scores.json") for job in jobs]
        if not all(EMBEDDED in one for one in scores):
            continue
        shares.append(np.mean([one[EMBEDDED]["supports_without_plus"] for one in scores]))
        for measure, (title, digits, _) in MEASURES.items():
            draws = pd.DataFrame([[draw[measure] for draw in one[EMBEDDED]["draws"]] for one in scores])
            each = draws.mean()  # of each draw
            plain = float(np.mean([one["priors"]["pmgm"][measure] for one in scores]))
            texts = [number(plain, digits), with_deviation(each.mean(), each.std(ddof=1), digits)]
            texts += [number(end, digits) for end in (each.min(), each.max())]
            grid.rows.append([str(shot), str(fold), re.split(r",| \(", title)[0], *texts])
    if not grid.rows:
        return []
    grid.title = f"PMGM's prior with a random embedding (released), {len(each)} draws"
    grid.note = (
        "±: standard deviation over draws, each a mean over evaluation seeds. The embedding is the whole prototype of "
        f"CAM+ for a support whose object has no CAM+: {number(float(np.mean(shares)))} % of supports."
    )
    return [grid]


# --- CAMs ------------------------------------------------------------------------------------------------------


def cam_grids(target: Target) -> list[Grid]:
    """CAM+ compared with the object, and the classes predicted for the supports, by shot and fold, over evaluation
    seeds."""
    where = ["Shot", "Fold"]
    measures = {
        "share_cam": "share of query, %",
        "precision_cam": "precision, %",
        "recall_cam": "recall of object, %",
    }
    plus = Grid([("", n) for n in (*where, *measures.values())], [], words=0, title="CAM+ against the object")
    plus.note = (
        "Share of the query that is CAM+, share of CAM+ that is object, share of the object that is CAM+."
    )
    read = Grid([("", n) for n in (*where, "Class of the episodes", "predicted")], [], words=4)
    read.title = "Classes that the classifier predicts for the masked supports"
    for place, jobs in baseline_jobs(target).items():
        found = [scores for job in jobs if "cam" in (scores := job.json("scores.json"))]
        if not found:
            continue
        at, names = [str(value) for value in place], class_names(jobs[0], target.results.known)
        means = [np.mean([scores["cam"][name] for scores in found], dtype=float) for name in measures]
        plus.rows.append(at + [number(value) for value in means])
        classes = next(iter(found[0]["methods"].values()))["classes"]
        for class_id, own in classes.items():
            counts = Counter()
            for scores in found:
                counts.update(scores.get("cam_classes", {}).get(class_id, {}))
            top = counts.most_common(3)
            texts = [f"{names.get(int(c), f'class {c}')} {100 * n / counts.total():.0f} %" for c, n in top]
            if top:
                read.rows.append([*at, str(own["name"]).replace("_", " "), ", ".join(texts)])
    return [grid for grid in (plus, read) if grid.rows]


def baseline_jobs(target: Target) -> dict[tuple[int, int], list[Finished]]:
    """Shot and fold -> the baselines jobs of the target, one for each evaluation seed, that scored something."""
    found: dict[tuple[int, int], dict[int, Finished]] = defaultdict(dict)
    for item in target.items:
        if item.baseline and item.scores.get("miou") is not None:
            found[item.row["shot"], item.row["fold"]][item.row["eval_seed"]] = item.job
    return {place: list(jobs.values()) for place, jobs in sorted(found.items())}
