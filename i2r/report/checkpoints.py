"""Which checkpoint of a training is evaluated: the last, the best on held-out episodes of training classes, or, as is
the habit of the field, the best of many on the test episodes themselves, which is optimistic.

Shown for methods with evaluate.checkpoint: all. Their result is that of the last checkpoint, here as elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from i2r.metrics.statistics import Measured, averaged_scores, miou, seed_interval
from i2r.pipeline.steps import BY_CHECKPOINT
from i2r.report import figures
from i2r.report.forms.shown import IMAGES, SEEDS, Figure, Shown, setting, suffix
from i2r.report.results import Results, Scored
from i2r.report.target import OVER_IMAGES, OVER_SEEDS, Target
from i2r.report.text import Grid, bracket, folds_said, listed, points, with_interval

LAST, BEST = "last", "best on held-out training classes"
TEST = "best of all on the test episodes (optimistic)"
COMPARED = ((BEST, LAST), (TEST, LAST), (TEST, BEST))
COLUMNS = ["target", "dataset", "shot", "method", "checkpoint", "minus", "value", *OVER_IMAGES, *OVER_SEEDS]
COLUMNS += ["seeds", "folds", "share"]
NOTE = (
    "mIoU in percent, differences in points, paired. The published codes validate on the test classes in every epoch, "
    "and report the best checkpoint. Here {count} evenly spaced ones were scored on the test episodes, the last of "
    "them included; the best of these, in each evaluation, is a control, and no result. By its lead the habit is "
    "optimistic, and with more checkpoints to choose from it is more so. Intervals take the choice as given."
)


def table(targets: Sequence[Target]) -> pd.DataFrame:
    """COLUMNS: the mIoU of each checkpoint, and the differences between them (`minus`).

    `share`: percent of the training steps after which a checkpoint was kept; only those have it.
    """
    rows = []
    for target in targets:
        for id in target.trained:
            every = target.method(id)["params"]["evaluate"]["checkpoint"] == "all"
            for shot in target.shots if every else ():
                over = target.over(target.dataset(id), shot)
                start = {"target": target.name, "dataset": target.dataset(id), "shot": shot, "method": id}
                start |= {"folds": " ".join(map(str, over))}
                items = [target.items_of(id, shot, fold) for fold in over]
                if items and all(map(_scored, items)):
                    rows += [start | row for row in _rows(target.results, items)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _scored(items: Sequence[Scored]) -> bool:
    """Whether a fold has evaluations, all with a score."""
    return bool(items) and all(item.scores.get("miou") is not None for item in items)


def _rows(results: Results, folds: Sequence[Sequence[Scored]]) -> list[dict]:
    """Rows of a method, from its evaluations in each fold."""
    items = [item for own in folds for item in own]
    scored = [(item.row["fold"], item.row["seed"], _scores(results, item)) for item in items]
    names = [name for name in scored[0][2] if all(name in own for _, _, own in scored)]
    means, by_seed = {}, {}
    for name in names:
        cells = pd.DataFrame([(*at, own[name]) for *at, own in scored], columns=["fold", "seed", "measured"])
        folds_means = [averaged_scores(list(own["measured"])) for _, own in cells.groupby("fold")]
        means[name] = averaged_scores(folds_means)
        values = cells.assign(value=[one.value for one in cells["measured"]])
        by_seed[name] = values.pivot_table("value", "seed", "fold").dropna().mean(axis=1)
    rows = [_row(name, "", means[name], by_seed[name]) for name in names]
    for name, minus in COMPARED:
        if name in means and minus in means:
            rows.append(_row(name, minus, means[name] - means[minus], by_seed[name] - by_seed[minus]))
    return rows


def _scores(results: Results, item: Scored) -> dict[str | float, Measured]:
    """The mIoU of LAST, BEST (of a training with validations) and TEST, and of each evenly spaced checkpoint by percent
    of the steps."""
    counts = pd.read_csv(item.job.folder / BY_CHECKPOINT, dtype={"checkpoint": str, "query": str})
    resamplings = results.params["report"]["bootstrap"]
    each = {name: miou(own, resamplings) for name, own in counts.groupby("checkpoint")}
    spaced = [*sorted((name for name in each if name.isdigit()), key=int), "last"]
    by_share = {100 * place / len(spaced): each[name] for place, name in enumerate(spaced, 1)}
    best = {BEST: each["best"]} if "best" in each else {}
    chosen = max(by_share.values(), key=lambda own: own.value)
    return {LAST: each["last"], **best, TEST: chosen, **by_share}


def _row(checkpoint: str | float, minus: str, measured: Measured, by_seed: pd.Series) -> dict:
    known = isinstance(checkpoint, str)
    row = {"checkpoint": checkpoint if known else f"after {checkpoint:.3g} % of the steps", "minus": minus}
    row |= {"share": None if known else checkpoint, "value": measured.value, "seeds": len(by_seed)}
    ends = (*measured.samples.interval(), *seed_interval(list(by_seed)))
    return row | dict(zip((*OVER_IMAGES, *OVER_SEEDS), ends, strict=True))


def add(made: Shown, compared: pd.DataFrame, target: Target) -> None:
    """Add what there is of a target: a table for each data set and number of shots, and for each of its methods a
    sentence and a curve."""
    own = compared[compared["target"] == target.name]
    for (dataset, shot), rows in own.groupby(["dataset", "shot"], sort=False):
        made.grids.append(_grid(target, dataset, shot, rows))
        for id, found in rows.groupby("method", sort=False):
            lead = found[(found["checkpoint"] == TEST) & (found["minus"] == LAST)].iloc[0]
            made.sentences.append(
                f"**{target.labels[id]}**: of {tried(found)} checkpoints, the best on the test episodes leads the "
                f"last by {points(*lead[['value', *OVER_IMAGES]])} points, by the choice alone."
            )
            name = f"{target.name}-checkpoints-{id}{suffix(target, dataset, shot)}"
            caption = f"{target.labels[id]}: mIoU on the test episodes by checkpoint. The best of them is no result."
            made.figures.append(Figure(name, caption, partial(_curve, found)))


def tried(rows: pd.DataFrame) -> int:
    """Number of checkpoints among which the best on the test episodes was chosen."""
    return rows["share"].nunique()


def _grid(target: Target, dataset: str, shot: int, rows: pd.DataFrame) -> Grid:
    title = ", ".join(filter(None, ("Checkpoints of a training", setting(target, dataset, shot))))
    header = ["Method", "Checkpoint", "minus", f"mIoU {IMAGES}", SEEDS]
    counts = sorted({tried(own) for _, own in rows.groupby("method")})
    folds = folds_said([int(fold) for fold in rows["folds"].iloc[0].split()])
    note = f"{NOTE.format(count=listed(counts))} Each number: {folds}."
    grid = Grid([("", name) for name in header], [], words=3, title=title, note=note)
    for row in rows[rows["share"].isna()].to_dict("records"):
        ends = [row[name] for name in OVER_IMAGES]
        number = points(row["value"], *ends) if row["minus"] else with_interval(row["value"], *ends)
        seeds = bracket(*(row[name] for name in OVER_SEEDS))
        grid.rows.append([target.labels[row["method"]], row["checkpoint"], row["minus"], number, seeds])
    return grid


def _curve(rows: pd.DataFrame, path: Path) -> Path:
    """mIoU by percent of the steps, with lines at BEST and TEST."""
    own = rows[(rows["minus"] == "") & (rows["checkpoint"] != LAST)]
    low, high = OVER_IMAGES
    drawn = own.rename(columns={"value": "mean", low: "low", high: "high"})
    drawn = drawn.assign(x=drawn["share"].astype(object).where(drawn["share"].notna(), drawn["checkpoint"]))
    return figures.line(drawn, "training steps, %", "mIoU on the test episodes, %", path)
