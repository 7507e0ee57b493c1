"""mIoU by fold, as in the paper's Tables 1 and 2: methods, baselines and, if comparable, the paper's numbers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from i2r.config.paper_targets import paper_files
from i2r.metrics.statistics import FEWEST, LEVEL, Comparison, no_verdict
from i2r.paper.comparable import LEVELS, level, published_data
from i2r.paper.published import BACKBONES, BY_FOLD, by_fold, main_backbone, main_name, published
from i2r.report import figures
from i2r.report.forms.shown import (
    BRACKETS,
    IMAGES,
    Figure,
    Shown,
    add_spreads,
    departed,
    differences,
    gain,
    paper_note,
    prefixed,
    rests_on,
    setting,
    source_of,
    suffix,
    tta_gains,
    unlike,
)
from i2r.report.target import SPREADS, Target
from i2r.report.text import Grid, folds_said, listed, number, points, with_interval

TRAINED, UNTRAINED, PUBLISHED = "trained", "none", "published"


def show(target: Target) -> Shown:
    """The target as Table 1 or 2, with a table for each data set."""
    frames, grids, sentences, drawn = [], [], [], []
    for dataset in target.datasets:
        notes = {id: differences(target, id) for id in target.of(dataset) if "@" not in id}
        table = main_frame(target, dataset, notes)
        frames.append(table)
        grids.append(main_grid(target, dataset, table, notes))
        for shot in target.shots:
            said = verdicts(target, dataset, shot) + against_first(target, dataset, shot)
            said += tta_gains(target, dataset, shot)
            sentences += [prefixed(target, dataset, shot, text) for text in said]
            drawn.append(bars(target, dataset, shot))
    own = target.name if target.name in BY_FOLD.values() else None
    tables = dict.fromkeys(own or paper_table(target, id) for id in target.trained)
    numbers = [name.removeprefix("table") for name in tables] or ["1"]
    title = f"mIoU by fold, {listed(target.datasets)} (form of the paper's Table {listed(numbers)})"
    return Shown("table", title, pd.concat(frames, ignore_index=True), grids, sentences, drawn)


def bars(target: Target, dataset: str, shot: int) -> Figure:
    """mIoU of methods and baselines by fold."""
    where = setting(target, dataset, shot)
    grey = (
        " Trained methods in colour, baselines grey." if any("@" in id for id in target.of(dataset)) else ""
    )
    caption = f"mIoU by fold{f', {where}' if where else ''}.{grey}"
    draw = partial(
        figures.score_bars, target.panels(dataset, shot), target.of(dataset), target.colours, target.labels
    )
    return Figure(f"{target.name}{suffix(target, dataset, shot)}", caption, draw)


# --- the table -------------------------------------------------------------------------------------------------


def main_frame(target: Target, dataset: str, notes: dict[str, list[str]]) -> pd.DataFrame:
    """One row for each id, then the published methods on each comparable backbone.

    Columns: dataset, backbone, reading, method, id, training (trained | none | published), level, differs (in what the
    setting is not the published one), then for each shot
    `K-shot fold-F`, `K-shot mean`, `K-shot ...` for SPREADS, `K-shot mean on GRID` with its interval (of
    Target.yardstick), `K-shot paper` (the paper's mean). level: see paper.comparable.
    """
    rows = []
    cells = {shot: target.table(dataset, shot) for shot in target.shots}
    for id in target.of(dataset):
        name, _, host = id.partition("@")
        row = {"dataset": dataset, "backbone": target.backbone(id), "reading": target.method(id)["reading"]}
        row |= {"method": name, "id": id, "training": UNTRAINED if host else TRAINED}
        row["level"] = "" if host else level(target.method(id)["params"])
        row["differs"] = "" if host else "; ".join(notes[id] or departed(target, id))
        for shot, table in cells.items():
            row |= {f"{shot}-shot {column(name)}": value for name, value in table.loc[id].items()}
            row |= beside(target, id, shot)
            row[f"{shot}-shot paper"] = None if host or notes[id] else paper_mean(target, id, shot)
        rows.append(row)
    alike = dict.fromkeys(
        (paper_table(target, id), main_backbone(target.method(id)["params"]))
        for id, found in notes.items()
        if not found
    )
    rows += [row for table, backbone in alike for row in published_rows(target, table, backbone)]
    words = ["dataset", "backbone", "reading", "method", "id", "training", "level", "differs"]
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table.columns if name not in words})


def beside(target: Target, id: str, shot: int) -> dict[str, float]:
    """The mean on the other yardstick with its interval over images, as columns of `main_frame`."""
    name, measure = f"{shot}-shot mean on {target.yardstick}", f"miou_{target.yardstick}"
    mean = target.means(id, shot, measure)["mean"]
    ends = (np.nan, np.nan) if np.isnan(mean) else target.interval(id, shot, measure)
    return dict(zip((name, f"{name} low", f"{name} high"), (mean, *ends), strict=True))


def column(name: int | str) -> str:
    return f"fold-{name}" if isinstance(name, int) else name


def paper_mean(target: Target, id: str, shot: int) -> float | None:
    """The paper's mean for this method, if it has one."""
    method = target.method(id)
    name = main_name(method["params"], method["reading"])
    values = name and by_fold(paper_table(target, id), main_backbone(method["params"]), name, shot)
    return values[-1] if values else None


def paper_table(target: Target, id: str) -> str:
    """The paper's table for the data set of a method; Table 1 for data that the paper does not have."""
    return BY_FOLD.get(source_of(target, id), "table1")


def published_rows(target: Target, table: str, backbone: str) -> list[dict]:
    """The rows of a table of the paper on a backbone, on the folds of the target."""
    rows = []
    for name in published(table)[backbone]:
        row = {"backbone": backbone, "reading": "", "method": name, "training": PUBLISHED}
        for shot in target.shots:
            *folds, mean = by_fold(table, backbone, name, shot) or [np.nan] * 5
            row |= {f"{shot}-shot fold-{fold}": folds[fold] for fold in target.folds}
            row[f"{shot}-shot mean"] = mean if sorted(target.folds) == list(range(len(folds))) else np.nan
        rows.append(row)
    return rows


def main_grid(target: Target, dataset: str, table: pd.DataFrame, notes: dict[str, list[str]]) -> Grid:
    """Table 1 or 2 for display."""
    own = table["training"] != PUBLISHED
    levels = table.loc[table["training"] == TRAINED, "level"].unique()
    several = {"reading": table.loc[own, "reading"].nunique() > 1, "level": len(levels) > 1}
    words = ["backbone", *(name for name, shown in several.items() if shown)]
    header = [("", name) for name in ("Method", *(word.capitalize() for word in words))]
    grid = Grid(header, [], words=len(header), title=dataset if len(target.datasets) > 1 else "")
    grid.quiet = {at for at, ours in enumerate(own) if not ours}
    for row in table.fillna({"level": ""}).to_dict("records"):
        name = f"{row['method']} (published)" if row["training"] == PUBLISHED else target.labels[row["id"]]
        grid.rows.append([name, *(row[word] for word in words)])
    for shot in target.shots:
        group, over = f"{shot}-shot", target.over(dataset, shot)
        columns = [(f"Fold {fold}", f"{group} fold-{fold}") for fold in target.folds]
        if len(target.folds) == 1:  # with the interval, which otherwise only the mean has
            columns = [(f"Fold {target.folds[0]} {IMAGES}", f"{group} mean")]
        else:
            which = "" if over == target.folds else f" of {listed(over) if over else 'none'}"
            columns.append((f"Mean{which} {IMAGES}", f"{group} mean"))
        over_all = "Mean" if len(target.folds) > 1 else f"Fold {target.folds[0]}"
        title = f"{over_all} on the grid {target.yardstick} {IMAGES}"
        columns.append((title, f"{group} mean on {target.yardstick}"))
        for title, name in columns:
            grid.header.append((group, title))
            grid.mark(len(grid.header) - 1, table.loc[own, name])
            for at, values in enumerate(table.to_dict("records")):
                text = number(values[name])
                if f"{name} low" in values:
                    text = with_interval(values[name], values[f"{name} low"], values[f"{name} high"])
                if len(target.folds) == 1 and not own[at] and name == f"{group} mean":
                    text = number(values[f"{group} fold-{target.folds[0]}"])
                grid.rows[at].append(text)
        add_spreads(grid, group, table.loc[own, [f"{group} {name}" for name in SPREADS]])
        if table[f"{group} paper"].notna().any():
            grid.header.append((group, "paper, mean"))
            for at, value in enumerate(table[f"{group} paper"]):
                grid.rows[at].append(number(value))
    note = f"In percent; our best and second best are marked. {BRACKETS}"
    if target.host and any("@" in id for id in target.of(dataset)):
        note += " Thresholds of baselines without training were chosen on training classes."
    if len(levels):
        note += f" Level: {'; '.join(f'{name} ({LEVELS[name]})' for name in levels)}."
    grid.note = f"{note} {scoring_note(target)} {paper_note(target, notes)}"
    for name in dict.fromkeys(paper_table(target, id) for id, found in notes.items() if not found):
        grid.note += (
            f" The paper's numbers are those of its Table {name[-1]}, {paper_files()[name]['where']}."
        )
    return grid


def scoring_note(target: Target) -> str:
    """On which grids the numbers are scored."""
    main: dict[str, list[str]] = {}
    for id, grid in target.scoring.items():
        main.setdefault(grid, []).append(target.labels[id])
    said = listed([f"{grid} ({listed(names)})" if len(main) > 1 else grid for grid, names in main.items()])
    return (
        f"Scored on the grid {said} (evaluate.scoring), and beside it on the grid {target.yardstick}, from the same "
        "predictions; metrics.csv has every grid."
    )


# --- sentences -------------------------------------------------------------------------------------------------


def verdicts(target: Target, dataset: str, shot: int) -> list[str]:
    """Each trained method compared with the best baseline without training, one sentence for each method."""
    over, table = target.over(dataset, shot), target.table(dataset, shot)
    if not over:
        return ["No fold has a class to score, so there is no verdict."]
    margin = target.results.params["report"]["margin"]
    means = table["mean"]
    based = [id for id in target.of(dataset) if "@" in id]
    best = means[based].idxmax() if based and means[based].notna().all() else None
    out = []
    if best is not None:
        on = f"on the frozen networks of {target.labels[target.host]}"
        out.append(
            f"The best baseline without training ({on}) is {target.labels[best]}, {means[best]:.1f} mIoU."
        )
    elif based:
        out.append(
            "Not every baseline has been evaluated on every fold, so methods are not compared with the best."
        )
    for id in (id for id in target.of(dataset) if "@" not in id):
        if pd.isna(means[id]):
            out.append(f"**{target.labels[id]}** has not been evaluated on every fold: no verdict.")
            continue
        text = f"**{target.labels[id]}** reaches **{means[id]:.1f}** mIoU ({folds_said(over)})"
        if best is not None:
            lead = points(*target.difference(id, best, shot))
            passed = bar(target.comparison(id, best, shot, margin), margin)
            text += f", {lead} relative to this baseline (required: {margin:+g}; **{passed}**)"
        out.append(f"{text}.")
    rests = rests_on(target, [id for id in target.of(dataset) if "@" not in id], shot)
    return out + ([f"Trained methods: {rests}."] if rests and means.notna().any() else [])


def bar(lead: Comparison, margin: float) -> str:
    """Whether a lead reaches the margin, over images and over training seeds."""
    if lead.seeds < FEWEST:
        return no_verdict(lead.seeds)
    if lead.above < 1 - LEVEL:
        return "passed"
    return "undecided" if lead.difference >= margin else "not passed"


def against_first(target: Target, dataset: str, shot: int) -> list[str]:
    """Every other method compared with the first of the target, and the paper's difference of the two."""
    first, *others = (id for id in target.of(dataset) if "@" not in id)
    means, out = target.table(dataset, shot)["mean"], []
    for id in (id for id in others if pd.notna(means[id]) and pd.notna(means[first])):
        options, papers = unlike(target, id, first), paper_gain(target, id, first, shot)
        text = f"**{target.labels[id]}** against **{target.labels[first]}**: {gain(target, id, first, shot)} points"
        text += f" ({options})" if options else ""
        out.append(f"{text}{papers}.")
    return out


def paper_gain(target: Target, ours: str, theirs: str, shot: int) -> str:
    """`; the paper has ...` if its table has both methods, on their common backbone or else on ResNet-50."""
    names = [main_name(target.method(id)["params"], target.method(id)["reading"]) for id in (ours, theirs)]
    backbones = {main_backbone(target.method(id)["params"]) for id in (ours, theirs)}
    backbone = backbones.pop() if len(backbones) == 1 else None
    if None in names or names[0] == names[1]:
        return ""
    first, second = (by_fold(paper_table(target, ours), backbone or "resnet50", name, shot) for name in names)
    if first is None or second is None:
        return ""
    data = published_data(source_of(target, ours)).name
    on = f"{data} with {BACKBONES[backbone or 'resnet50']}"
    return f"; the paper has {first[-1] - second[-1]:+.1f} on {on}"
