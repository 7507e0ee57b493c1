"""Which checkpoint of a training is evaluated: the last, the best on held-out episodes of training classes, or, as is
the habit of the field, the best on the test episodes themselves, which is optimistic.

Compared are methods of a target that differ in evaluate.checkpoint alone: they share their trainings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from i2r.metrics.statistics import Samples, averaged, seed_interval
from i2r.report.forms.shown import PICTURES, SEEDS, differing, setting
from i2r.report.results import Scored
from i2r.report.target import OVER_PICTURES, OVER_SEEDS, Target
from i2r.report.text import Grid, bracket, folds_said, points, with_interval

LAST, BEST = "last", "best on held-out training classes"
TEST = "better of the two on the test episodes (optimistic)"
COMPARED = ((BEST, LAST), (TEST, LAST), (TEST, BEST))
COLUMNS = ["target", "dataset", "shot", "method", "checkpoint", "minus", "value", *OVER_PICTURES, *OVER_SEEDS]
COLUMNS += ["seeds", "folds"]
NOTE = (
    "mIoU in percent, differences in points, paired. The published codes report the checkpoint that is best on the "
    "test episodes, of all validations of a training. A training here keeps two, the last and the best on held-out "
    "training classes. The better of the two on each evaluation's own test episodes is a control, and no result: by "
    "its lead the habit is optimistic, and with more checkpoints to choose from it is more so."
)


@dataclass(frozen=True)
class Evaluated:
    """mIoU of evaluations over the folds of a target, in percent: its mean, its samples over pictures, and the mean of
    each training seed."""

    value: float
    samples: Samples
    by_seed: dict[int, float]


def table(targets: Sequence[Target]) -> pd.DataFrame:
    """COLUMNS: the mIoU of each checkpoint, and the differences between them (`minus`)."""
    rows = []
    for target in targets:
        for last, best in pairs(target):
            for shot in target.shots:
                start = {"target": target.name, "dataset": target.dataset(last), "shot": shot, "method": last}
                over = target.over(target.dataset(last), shot)
                start |= {"folds": " ".join(map(str, over))}
                rows += [start | row for row in _compared(target, last, best, shot, over)]
    return pd.DataFrame(rows, columns=COLUMNS)


def pairs(target: Target) -> list[tuple[str, str]]:
    """The methods that are evaluated with the last checkpoint, each with the same method with the best one."""
    by: dict[str, list[str]] = {"last": [], "best": []}
    for id in target.trained:
        by[target.method(id)["params"]["evaluate"]["checkpoint"]].append(id)
    both = product(by["last"], by["best"])
    return [pair for pair in both if differing(target, *pair) == ["evaluate.checkpoint"]]


def _compared(target: Target, last: str, best: str, shot: int, over: Sequence[int]) -> list[dict]:
    """The rows of a pair; none unless both were scored in every fold, with the same seeds."""
    chosen: dict[str, dict[int, list[Scored]]] = {LAST: {}, BEST: {}, TEST: {}}
    for fold in over:
        lasts, bests = (
            {(item.row["seed"], item.row["eval_seed"]): item for item in target.items_of(id, shot, fold)}
            for id in (last, best)
        )
        scored = all(item.scores.get("miou") is not None for item in (*lasts.values(), *bests.values()))
        if not lasts or lasts.keys() != bests.keys() or not scored:
            return []
        chosen[LAST][fold], chosen[BEST][fold] = list(lasts.values()), [bests[seeds] for seeds in lasts]
        both = zip(chosen[LAST][fold], chosen[BEST][fold], strict=True)
        chosen[TEST][fold] = [max(pair, key=lambda item: item.scores["miou"]) for pair in both]
    if not over:
        return []
    found = {name: _evaluated(target, items) for name, items in chosen.items()}
    rows = [_row(name, "", own.value, own.samples, list(own.by_seed.values())) for name, own in found.items()]
    for name, minus in COMPARED:
        a, b = found[name], found[minus]
        by_seed = [a.by_seed[seed] - b.by_seed[seed] for seed in a.by_seed]
        rows.append(_row(name, minus, a.value - b.value, a.samples - b.samples, by_seed))
    return rows


def _evaluated(target: Target, items: dict[int, list[Scored]]) -> Evaluated:
    """items: of each fold."""
    drawn, values, seeds = [], [], defaultdict(lambda: defaultdict(list))
    for fold, own in items.items():
        drawn.append(averaged([target.results.samples(item) for item in own]))
        values.append(np.mean([item.scores["miou"] for item in own]))
        for item in own:
            seeds[item.row["seed"]][fold].append(item.scores["miou"])
    by_seed = {
        seed: float(np.mean([np.mean(scores) for scores in folds.values()]))
        for seed, folds in sorted(seeds.items())
        if len(folds) == len(items)
    }
    return Evaluated(float(np.mean(values)), averaged(drawn), by_seed)


def _row(checkpoint: str, minus: str, value: float, samples: Samples, by_seed: list[float]) -> dict:
    ends = (*samples.interval(), *seed_interval(by_seed))
    row = {"checkpoint": checkpoint, "minus": minus, "value": value, "seeds": len(by_seed)}
    return row | dict(zip((*OVER_PICTURES, *OVER_SEEDS), ends, strict=True))


def grids(compared: pd.DataFrame, target: Target) -> list[Grid]:
    """A table of a target for each data set and number of shots."""
    found = []
    own = compared[compared["target"] == target.name]
    for (dataset, shot), rows in own.groupby(["dataset", "shot"], sort=False):
        title = ", ".join(filter(None, ("Best and last checkpoint", setting(target, dataset, shot))))
        header = ["Method", "Checkpoint", "minus", f"mIoU {PICTURES}", SEEDS]
        note = f"{NOTE} Each number: {folds_said([int(fold) for fold in rows['folds'].iloc[0].split()])}."
        grid = Grid([("", name) for name in header], [], words=3, title=title, note=note)
        for row in rows.to_dict("records"):
            ends = [row[name] for name in OVER_PICTURES]
            number = points(row["value"], *ends) if row["minus"] else with_interval(row["value"], *ends)
            seeds = bracket(*(row[name] for name in OVER_SEEDS))
            grid.rows.append([target.labels[row["method"]], row["checkpoint"], row["minus"], number, seeds])
        found.append(grid)
    return found
