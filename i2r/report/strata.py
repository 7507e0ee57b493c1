"""Scores by kind of episode: a look-alike in the query or not, a small or a large object, covered or not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from i2r.data.index_table import INDEX, read_index
from i2r.data.shapes.generate import OBJECTS
from i2r.data.sources import open_source
from i2r.metrics.statistics import Measured, averaged_scores, miou
from i2r.report.finished import Finished
from i2r.report.forms.shown import IMAGES, setting
from i2r.report.results import Results
from i2r.report.target import Target
from i2r.report.text import DASH, Grid, counted, points, with_interval

# kind -> what it is called on the page, and its two strata
KINDS = {
    "look-alike": ("Look-alike in the query", ("yes", "no")),
    "size": ("Object", ("small", "large")),
    "cover": ("Object covered", ("yes", "no")),
}
COVERED = 0.05  # share of its pixels below other shapes from which an object counts as covered
CHANGE = "change"  # a difference between two methods in the first stratum, less that in the second
COLUMNS = ["target", "dataset", "shot", "id", "minus", "kind", "stratum", "value", "low", "high"]
COLUMNS += ["folds", "episodes", "images"]

ABOUT = (
    "Look-alike: another class of the same group, which has similar outlines (generated images) or is of the same "
    "kind (photographs). Small: a smaller share of the query image than in the median episode of the fold. Covered: "
    f"other shapes hide more than {100 * COVERED:g} % of the class's pixels. mIoU is the mean over the folds with such "
    "episodes, and in each over the classes that have some: scores of different episodes differ in their classes too; "
    "differences between methods are on the same episodes."
)

Covered = dict[tuple[str, int], bool]  # of image and class
Frames = list[list[pd.DataFrame]]  # episodes with the columns of KINDS: of each fold, of each of its runs


# --- the stratum of each episode -------------------------------------------------------------------------------


def read_data(data: Finished) -> tuple[dict[str, Any], Covered | None]:
    """The index of a data job, and whether other shapes cover each class of each image, if the job says it."""
    index = read_index(data.folder / INDEX, "sizes")
    if OBJECTS not in data.products:
        return index, None
    objects = pd.read_csv(data.folder / OBJECTS, dtype={"image": str})
    sums = objects.groupby(["image", "class"])[["pixels", "visible"]].sum()
    return index, (sums["visible"] < (1 - COVERED) * sums["pixels"]).to_dict()


def strata(index: dict[str, Any], covered: Covered | None, episodes: pd.DataFrame) -> pd.DataFrame:
    """The episodes with a column for each kind that is known for the data set.

    look-alike: whether another class of the same of the source's groups is in the query. size: whether the class has a
    smaller share of the query than in the median episode. cover: whether other shapes hide more than COVERED of the
    pixels of its objects.

    Args:
        index, covered: from read_data.
    """
    pairs = list(zip(episodes["query"], episodes["class"], strict=True))
    shown, sizes = index["val"], index["sizes"]
    found: dict[str, Any] = {}
    if groups := open_source(index["source"]).groups:
        number = {name: at for at, members in enumerate(groups) for name in members}
        group = {str(cls): number.get(name, -cls) for cls, name in enumerate(index["classes"], 1)}
        found["look-alike"] = [
            any(group[other] == group[str(cls)] for other in shown[query] if other != str(cls))
            for query, cls in pairs
        ]
    share = np.array([shown[query][str(cls)] / np.prod(sizes[query]) for query, cls in pairs])
    found["size"] = share < np.median(share)
    if covered is not None:
        found["cover"] = [covered[pair] for pair in pairs]
    return episodes.assign(**{kind: np.where(first, *KINDS[kind][1]) for kind, first in found.items()})


# --- numbers ---------------------------------------------------------------------------------------------------


def table(results: Results, targets: Sequence[Target]) -> pd.DataFrame:
    """mIoU of each method of each target in each stratum, then the differences between its first and each other method,
    with COLUMNS; percent and points.

    minus: the other method of a difference. value: the mean over the folds that have such episodes, and in each over
    the classes that have some.
    """

    @cache
    def described(key: str) -> tuple[dict[str, Any], Covered | None]:
        return read_data(results.known[key])

    @cache
    def divided(key: str) -> pd.DataFrame:
        job = results.known[key]
        return strata(*described(job.inputs["data"]), job.episodes)

    rows: list[dict[str, Any]] = []
    count = results.params["report"]["bootstrap"]
    for target in targets:
        for dataset, shot in product(target.datasets, target.shots):
            ids = [id for id in target.trained if target.dataset(id) == dataset]
            frames = {id: own for id in ids if (own := _frames(target, id, shot, divided))}
            start = {"target": target.name, "dataset": dataset, "shot": shot}
            rows += [start | row for row in _rows(target, shot, frames, count)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _frames(target: Target, id: str, shot: int, divided: Callable[[str], pd.DataFrame]) -> Frames:
    """The episodes of a method, divided; none if a fold is missing. divided: key of an evaluation -> its episodes."""
    folds = target.over(target.dataset(id), shot)
    jobs = [[item.job.key for item in target.items_of(id, shot, fold)] for fold in folds]
    return [[divided(key) for key in runs] for runs in jobs] if all(jobs) else []


def _rows(target: Target, shot: int, frames: Mapping[str, Frames], count: int) -> Iterator[dict[str, Any]]:
    found: dict[tuple[str, str, str], Measured] = {}
    for id, own in frames.items():
        for kind, stratum in _places(own[0][0]):
            parts = [[part for frame in runs if len(part := frame[frame[kind] == stratum])] for runs in own]
            if parts := [runs for runs in parts if runs]:
                folds = [averaged_scores([miou(frame, count) for frame in runs]) for runs in parts]
                found[id, kind, stratum] = score = averaged_scores(folds)
                yield {"id": id, "kind": kind, "stratum": stratum} | _numbers(score) | _counts(parts)
    first = next(iter(frames), None)
    for id in frames:
        if id == first or target.episode_keys(id, shot) != target.episode_keys(first, shot):
            continue
        gained = {
            place: found[first, *place] - found[id, *place]
            for place in _places(frames[id][0][0])
            if (id, *place) in found
        }
        for kind, (_, (one, other)) in KINDS.items():
            if (kind, one) in gained and (kind, other) in gained:
                gained[kind, CHANGE] = gained[kind, one] - gained[kind, other]
        for (kind, stratum), score in gained.items():
            yield {"id": first, "minus": id, "kind": kind, "stratum": stratum} | _numbers(score)


def _places(known: Collection[str]) -> list[tuple[str, str]]:
    """Kind and stratum of each stratum of the kinds that are known."""
    return [(kind, name) for kind, (_, names) in KINDS.items() if kind in known for name in names]


def _numbers(score: Measured) -> dict[str, float]:
    low, high = score.samples.interval()
    return {"value": score.value, "low": low, "high": high}


def _counts(parts: Frames) -> dict[str, int]:
    """Folds, and episodes and query images of all folds and seeds."""
    episodes = pd.concat([part for runs in parts for part in runs])
    return {"folds": len(parts), "episodes": len(episodes), "images": episodes["query"].nunique()}


# --- on the page -----------------------------------------------------------------------------------------------


def grids(found: pd.DataFrame, targets: Sequence[Target]) -> list[Grid]:
    """Scores and differences of each target, data set and shot."""
    made = []
    for target in targets:
        of_target = found[found["target"] == target.name]
        for (dataset, shot), own in of_target.groupby(["dataset", "shot"], sort=False):
            where = setting(target, dataset, shot)
            title = f"{target.name}{f', {where}' if where else ''}"
            made.append(_scores(own[own["minus"].isna()], target, title))
            if own["minus"].notna().any():
                made.append(_differences(own[own["minus"].notna()], target, f"{title}: differences"))
    return made


def _scores(own: pd.DataFrame, target: Target, title: str) -> Grid:
    """Methods by strata, then how many episodes and images there are."""
    present = set(zip(own["kind"], own["stratum"], strict=True))
    places = [place for place in _places(KINDS) if place in present]
    grid = Grid([("", "Method"), *((KINDS[kind][0], name) for kind, name in places)], [], title=title)
    cells = own.set_index(["id", "kind", "stratum"])
    for id in dict.fromkeys(own["id"]):
        # a method with other episodes than the others can have none in a stratum
        rows = [cells.loc[(id, *place)] if (id, *place) in cells.index else None for place in places]
        texts = [DASH if row is None else with_interval(*row[["value", "low", "high"]]) for row in rows]
        grid.rows.append([target.labels[id], *texts])
    most = own.groupby(["kind", "stratum"])[["episodes", "images"]].max()
    for column in most:
        grid.quiet.add(len(grid.rows))
        grid.rows.append([column, *(str(int(most.at[place, column])) for place in places)])
    grid.note = f"mIoU in percent, {IMAGES}, over {counted(int(own['folds'].max()), 'fold')}. "
    grid.note += "Episodes of all folds and seeds are counted."
    return grid


def _differences(own: pd.DataFrame, target: Target, title: str) -> Grid:
    """For each pair of methods and each kind: the difference in both strata, and its change between them."""
    header = ["Difference", "Episodes", "first", "second", "first − second"]
    grid = Grid([("", name) for name in header], [], words=2, title=title)
    for (ours, theirs, kind), rows in own.groupby(["id", "minus", "kind"], sort=False):
        title, names = KINDS[kind]
        cells = rows.set_index("stratum")
        texts = [
            points(*cells.loc[name, ["value", "low", "high"]])
            if name in cells.index
            else points(float("nan"))
            for name in (*names, CHANGE)
        ]
        what = f"{target.labels[ours]} − {target.labels[theirs]}"
        grid.rows.append([what, f"{title}: {names[0]} / {names[1]}", *texts])
    grid.note = (
        f"Points of mIoU, paired, {IMAGES}. The last column says how much larger the difference is in the first "
        "episodes than in the second."
    )
    return grid
