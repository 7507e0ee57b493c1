"""Does the network use the support? Controls of every evaluation beside its score (docs/statistics.md)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from i2r.data.control_episodes import KINDS
from i2r.metrics.statistics import Measured, Samples, averaged, averaged_scores, mean_samples, miou, ratio
from i2r.report.forms.shown import IMAGES
from i2r.report.results import Results, dataset_of
from i2r.report.text import Grid, counted, number, with_interval

ORACLES = {"objects": "all labelled objects", "test objects": "all objects of the test classes"}
COLUMNS = ["id", "dataset", "shot", "kind", "measure", "value", "low", "high", "folds", "episodes"]
# column of the table: kind of control, measure
SHOWN = {
    "own supports": ("right", "miou"),
    "asked class": ("present", "miou"),
    "class shown": ("present", "shown"),
    "lost": ("present", "lost"),
    "marked, %": ("absent", "marked"),
    "query itself": ("itself", "miou"),
    "shuffled mask": ("shuffled", "miou"),
    "CAM's class right": ("table", "miou"),
}
WITH_INTERVAL = (("right", "miou"), ("present", "lost"))  # the other intervals are in controls.csv
MASKED = {
    "miou": "mIoU",
    "disagree": "disagree",
    "wrong_mass": "wrong",
    "wrong_mass_unmasked": "wrong, before the mask",
}
GROUPS = {"present": "another class of the query image", "absent": "class not in it"}


def table(results: Results) -> pd.DataFrame:
    """One row for each measure of each method, with COLUMNS; the oracles have the id `oracle`. Percent.

    miou: of the asked class; shown: of the class that the supports show; lost: the share of the mIoU with the own
    supports that is lost, on the same episodes; marked: share of the query's known pixels that is marked.
    """
    groups: dict[tuple[str, str, int], dict[tuple[int, int], pd.DataFrame]] = {}
    for row in results.params["runs"]:
        job = results.jobs.get(row.get("controls"))
        if job is not None:
            dataset = dataset_of(results.methods[row["method"]])
            at = (row["method"], dataset, row["shot"])
            frame = pd.read_csv(job.folder / "controls.csv", dtype={"query": str})
            if len(frame):  # in some folds no class is scored
                groups.setdefault(at, {})[row["fold"], row["seed"]] = frame
    rows, oracles = [], set()
    count = results.params["report"]["bootstrap"]
    for (id, dataset, shot), runs in groups.items():
        start = {"dataset": dataset, "shot": shot, "folds": len({fold for fold, _ in runs})}
        for kind, measure in SHOWN.values():
            rows += _row(start | {"id": id}, list(runs.values()), kind, measure, count)
        if (dataset, shot) not in oracles:
            oracles.add((dataset, shot))
            for kind in ORACLES:
                rows += _row(start | {"id": "oracle"}, list(runs.values()), kind, "miou", count)
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(start: Mapping, frames: list[pd.DataFrame], kind: str, measure: str, count: int) -> list[dict]:
    """A row for a measure, or none if a fold has no such episode."""
    found = measured(frames, kind, measure, count)
    if found is None:
        return []
    episodes = sum(int((frame["kind"] == kind).sum()) for frame in frames)
    low, high = found.samples.interval()
    row = {
        "kind": kind,
        "measure": measure,
        "value": found.value,
        "low": low,
        "high": high,
        "episodes": episodes,
    }
    return [{**start, **row}]


def measured(frames: list[pd.DataFrame], kind: str, measure: str, count: int) -> Measured | None:
    """A measure over the controls of several folds and seeds, in percent; None if one has no such episode."""
    own = [frame[frame["kind"] == kind] for frame in frames]
    if any(frame.empty for frame in own):
        return None
    if measure == "marked":
        drawn = averaged([mean_samples(frame, "marked", count) for frame in own])
        return Measured(100 * float(np.mean([frame["marked"].mean() for frame in own])), _scaled(drawn))
    if measure == "lost":
        right = [
            frame[(frame["kind"] == "right") & frame["index"].isin(part["index"])]
            for frame, part in zip(frames, own, strict=True)
        ]
        before, after = _miou(right, count), _miou(own, count)
        share = Samples(1 - ratio(after.samples.values, before.samples.values), before.samples.images)
        return Measured(100 * (1 - after.value / before.value), _scaled(share)) if before.value else None
    if measure == "shown":
        columns = {"class": "own", "shown": "class", "inter_fg": "asked_inter", "union_fg": "asked_union"}
        columns |= {"shown_inter": "inter_fg", "shown_union": "union_fg"}
        own = [frame.rename(columns=columns) for frame in own]
    return _miou(own, count)


def _miou(frames: list[pd.DataFrame], count: int) -> Measured:
    return averaged_scores([miou(frame, count) for frame in frames])


def _scaled(samples: Samples) -> Samples:
    return Samples(100 * samples.values, samples.images)


def grids(controls: pd.DataFrame, labels: Mapping[str, str]) -> list[Grid]:
    """A table for each data set and shot: methods by controls, then the oracles."""
    found = []
    for (dataset, shot), own in controls.groupby(["dataset", "shot"], sort=False):
        names = [name for name, (kind, _) in SHOWN.items() if (own["kind"] == kind).any()]
        header = [("", "Method"), *((GROUPS.get(SHOWN[name][0], ""), name) for name in names)]
        grid = Grid(header, [], title=f"{dataset}, {shot}-shot" if controls["dataset"].nunique() > 1 else "")
        cells = own.set_index(["id", "kind", "measure"])
        for id in dict.fromkeys(own["id"]):
            if id != "oracle":
                grid.rows.append([labels[id], *(_cell(cells, id, *SHOWN[name]) for name in names)])
        for kind, label in ORACLES.items():
            if ("oracle", kind, "miou") in cells.index:
                text = _cell(cells, "oracle", kind, "miou")
                grid.quiet.add(len(grid.rows))
                grid.rows.append([f"oracle: {label}", text, *[""] * (len(names) - 1)])
        folds = counted(int(own["folds"].max()), "fold")
        said = "; ".join(f"{counted(int(n), 'episode')} {kind}" for kind, n in _episodes(own).items())
        grid.note = (
            f"mIoU in percent, mean over {folds}, {IMAGES}. Controls repeat test episodes with other supports "
            f"({said}, over all folds and seeds). Lost: share of the mIoU with the own supports that is lost on the "
            "same episodes when the supports show another class of the query image; a network that ignores the support "
            "loses nothing. Oracles mark true objects, without a network."
        )
        found.append(grid)
    return found


def mask_grid(results: Results, labels: Mapping[str, str]) -> Grid | None:
    """What each attention mask does at test when it knows the query's mask, means over folds and seeds."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in results.params["runs"]:
        job = results.jobs.get(row.get("controls"))
        for mask, seen in (job.json("scores.json").get("masks", {}) if job else {}).items():
            found.setdefault((row["method"], mask), []).append(seen)
    if not found:
        return None
    grid = Grid([("", name) for name in ("Method", "Mask at test", *MASKED.values())], [], words=2)
    grid.title = "Attention masks at test, with the query's true mask"
    for (id, mask), seen in found.items():
        means = {name: np.mean([one[name] for one in seen]) for name in MASKED}
        texts = [number(means["miou"])] + [number(100 * means[name], 2) for name in MASKED if name != "miou"]
        grid.rows.append([labels[id], mask, *texts])
    grid.note = (
        "In percent. Disagree: support cells whose preferred query cell has another label. Wrong: attention of query "
        "cells on support cells of the other label, with the mask and before it. A mask that knows the query's mask is "
        "an oracle: its mIoU says what the mask can do at best, not what the method reaches."
    )
    return grid


def _episodes(own: pd.DataFrame) -> dict[str, int]:
    one = own[own["id"] == own["id"].iloc[0]].drop_duplicates("kind").set_index("kind")["episodes"]
    return {f"with {KINDS[kind]}": one[kind] for kind in ("right", "present", "absent") if kind in one}


def _cell(cells: pd.DataFrame, id: str, kind: str, measure: str) -> str:
    if (id, kind, measure) not in cells.index:
        return number(None)
    row = cells.loc[(id, kind, measure)]
    if (kind, measure) not in WITH_INTERVAL:
        return number(row["value"])
    return with_interval(row["value"], row["low"], row["high"], 0 if measure == "lost" else 1)


def sentences(controls: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """What each method loses with supports of another class of the query image."""
    found = []
    several = controls["dataset"].nunique() > 1 or controls["shot"].nunique() > 1
    for row in controls[controls["measure"] == "lost"].itertuples():
        where = f" ({row.dataset}, {row.shot}-shot)" if several else ""
        lost = with_interval(row.value, row.low, row.high, 0)
        found.append(
            f"**{labels[row.id]}**{where} loses **{lost} %** of its mIoU when the supports show another class that is "
            "in the query image."
        )
    return found
