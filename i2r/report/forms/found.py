"""Episodes found by measure: the kinds of the paper's Figures 3, S4 and S5, and the failures of its Figures S1 and S2.

They are found among the episodes whose pictures the evaluations kept (evaluate.pictures), by what the query's image,
its mask and the predictions are, not by eye.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from textwrap import wrap
from typing import Any

import cv2
import numpy as np
import pandas as pd

from i2r.report import pictures
from i2r.report.figures import ORANGE, SKY, gap
from i2r.report.forms.shown import Figure, Shown, setting, suffix, title_of
from i2r.report.target import Target
from i2r.report.text import Grid, number

EACH = {
    "figure3": 1,
    "figure-s4": 3,
    "figure-s5": 3,
}  # target of the paper: episodes of each kind; others: one
LOW = 50  # IoU in percent below which an episode is a failure


@dataclass(frozen=True)
class Found:
    """An episode that all methods of a target kept.

    Attributes:
        by: method -> its arrays, as in pictures.read_pictures.
    """

    fold: int
    by: dict[str, dict[str, Any]]

    @property
    def first(self) -> dict[str, Any]:
        return next(iter(self.by.values()))

    def iou(self, id: str) -> float:
        """In percent; NaN without one."""
        found = self.by[id]["meta"].get("iou")
        return np.nan if found is None else float(found)


# --- measures ----------------------------------------------------------------------------------------------------


def share(episode: dict[str, Any]) -> float:
    """Share of the query's known pixels that is object."""
    return float((episode["truth"] == 1).sum() / max(1, (episode["truth"] != 255).sum()))


def contrast(episode: dict[str, Any]) -> float:
    """Distance of the mean colours of object and background, in standard deviations of the colours within them."""
    image, truth = episode["query"].astype(float), episode["truth"]
    inside, outside = image[truth == 1], image[truth == 0]
    if not len(inside) or not len(outside):
        return np.nan
    within = np.sqrt((inside.var(axis=0) + outside.var(axis=0)).mean() / 2)
    return float(np.linalg.norm(inside.mean(axis=0) - outside.mean(axis=0)) / (within + 1))


def wrong(episode: dict[str, Any]) -> float:
    """Pixels that are marked wrongly, relative to the object's."""
    false = (episode["prediction"] == 1) & (episode["truth"] == 0)
    return float(false.sum() / max(1, (episode["truth"] == 1).sum()))


def thinness(episode: dict[str, Any]) -> float:
    """Squared length of the object's outline over its area, relative to a disc's."""
    mask = (episode["truth"] == 1).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    length = sum(cv2.arcLength(outline, True) for outline in outlines)
    return float(length**2 / (4 * np.pi * max(1, mask.sum())))


MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "share": share,
    "contrast": contrast,
    "wrong": wrong,
    "thinness": thinness,
}


def kinds(table: pd.DataFrame, count: int) -> dict[str, list[int]]:
    """The paper's three kinds: kind -> rows of the table, the most typical first."""
    large = table[table["share"] >= table["share"].median()]
    return {
        "similar background": list(table.nsmallest(count, "contrast").index),
        "small object": list(table.nsmallest(count, "share").index),
        "salient object": list(large.nlargest(count, "contrast").index),
    }


def failures(table: pd.DataFrame, count: int) -> dict[str, list[int]]:
    """The paper's four kinds of failures: kind -> rows of the table, the most typical first."""
    failed = table[table["iou"] < LOW]
    elsewhere = failed[failed["wrong"].between(0.5, 2)]
    return {
        "large object of the background": list(failed.nlargest(count, "wrong").index),
        "camouflaged or small": list(
            failed.assign(seen=failed["share"] * failed["contrast"]).nsmallest(count, "seen").index
        ),
        "another object marked": list(elsewhere.nsmallest(count, "iou").index),
        "thin or outlined mask": list(failed.nlargest(count, "thinness").index),
    }


# --- forms -------------------------------------------------------------------------------------------------------


def show_kinds(target: Target) -> Shown:
    """Episodes of the three kinds with each method's prediction and prior."""
    note = (
        "Similar background: the smallest distance between the colours of object and background. Small: the smallest "
        "share of object pixels. Salient: the largest distance among objects of at least median size."
    )
    return _show(target, kinds, note)


def show_failures(target: Target) -> Shown:
    """Failures of the four kinds, of the first method."""
    note = (
        f"Among episodes with an IoU below {LOW} %. Large object of the background: most pixels marked wrongly, "
        "relative to the object. Camouflaged or small: smallest share of object pixels times distance of colours. "
        "Another object marked: half to twice as many pixels marked wrongly as the object has, and the lowest IoU. "
        "Thin or outlined mask: the longest outline for its area; whether the label is wrong cannot be measured."
    )
    return _show(target, failures, note)


def _show(target: Target, choose: Callable[[pd.DataFrame, int], dict[str, list[int]]], note: str) -> Shown:
    frames, grids, drawn = [], [], []
    for dataset, shot in product(target.datasets, target.shots):
        episodes, where = common(target, dataset, shot), setting(target, dataset, shot)
        table = measured(episodes, [id for id in target.of(dataset) if "@" not in id])
        chosen = choose(table, EACH.get(target.name, 1)) if len(table) else {}
        rows = [(kind, at) for kind, places in chosen.items() for at in places]
        frames.append(
            table.loc[[at for _, at in rows]].assign(
                kind=[kind for kind, _ in rows], dataset=dataset, shot=shot
            )
        )
        grids.append(found_grid(target, frames[-1], where, f"Found among {len(table)} kept episodes. {note}"))
        shown = [(kind, episodes[at]) for kind, at in rows]
        labels = {id: target.labels[id] for id in target.trained}
        caption = f"Episodes found by measure{f', {where}' if where else ''}: predictions and priors."
        drawn.append(
            Figure(f"{target.name}{suffix(target, dataset, shot)}", caption, partial(draw, shown, labels))
        )
    return Shown(target.form, title_of(target), pd.concat(frames, ignore_index=True), grids, [], drawn)


def common(target: Target, dataset: str, shot: int) -> list[Found]:
    """The episodes that all methods on a data set kept, with the first seeds that each has."""
    found = []
    for fold in target.folds:
        kept: dict[str, dict[tuple, dict[str, Any]]] = {}
        for id in (id for id in target.of(dataset) if "@" not in id):
            items = [i for i in target.items_of(id, shot, fold) if (i.job.folder / "pictures.npz").is_file()]
            read = pictures.read_pictures(items[0].job.folder / "pictures.npz") if items else []
            kept[id] = {pictures.episode_id(episode): episode for episode in read}
        first = next(iter(kept.values()), {})
        shared = [name for name in first if all(name in own for own in kept.values())]
        found += [Found(fold, {id: own[name] for id, own in kept.items()}) for name in shared]
    return found


def measured(episodes: Sequence[Found], ids: Sequence[str]) -> pd.DataFrame:
    """One row an episode: fold, class, query, MEASURES (of the last method's prediction), iou (its own), iou METHOD."""
    rows = []
    for episode in episodes:
        last, meta = episode.by[ids[-1]], episode.first["meta"]
        row = {"fold": episode.fold, "class": pictures.row_name(episode.first), "query": meta["query"]}
        row |= {name: measure(last) for name, measure in MEASURES.items()}
        rows.append(row | {"iou": episode.iou(ids[-1])} | {f"iou {id}": episode.iou(id) for id in ids})
    columns = ["fold", "class", "query", *MEASURES, "iou", *(f"iou {id}" for id in ids)]
    return pd.DataFrame(rows, columns=columns)


def found_grid(target: Target, table: pd.DataFrame, where: str, note: str) -> Grid:
    """The episodes that were found, with their measures and IoU."""
    ids = [id for id in target.trained if f"iou {id}" in table]
    names = [
        "Kind",
        "Class",
        "Query",
        "Fold",
        "object, %",
        "contrast",
        *(f"IoU, {target.labels[id]}" for id in ids),
    ]
    grid = Grid([("", name) for name in names], [], words=3, title=where, note=note)
    for row in table.to_dict("records"):
        texts = [row["kind"], row["class"], str(row["query"]), str(row["fold"])]
        texts += [number(100 * row["share"]), number(row["contrast"], 2)]
        grid.rows.append(texts + [number(row[f"iou {id}"]) for id in ids])
    return grid


def draw(shown: Sequence[tuple[str, Found]], labels: dict[str, str], path: Path) -> Path:
    """Rows of support, ground truth, and each method's prediction and prior.

    labels: method -> its name in the figure.
    """
    if not shown:
        return gap("no kept episode is of these kinds", path)
    ids = list(shown[0][1].by)
    with_prior = [id for id in ids if any(episode.by[id]["prior"] is not None for _, episode in shown)]
    names = {id: "\n".join(wrap(labels[id], 20)) for id in ids}
    columns = ["support", "ground truth", *names.values(), *(f"{names[id]}\nprior" for id in with_prior)]
    cells, ious = [], {}
    for y, (_, episode) in enumerate(shown):
        query = episode.first["query"]
        row = [pictures.supported(episode.first), pictures.tinted(query, episode.first["truth"], ORANGE)]
        row += [pictures.tinted(query, episode.by[id]["prediction"], SKY) for id in ids]
        priors = [episode.by[id]["prior"] for id in with_prior]
        row += [
            None if prior is None else pictures.heated(query, pictures.first_shot(prior, 2))
            for prior in priors
        ]
        ious |= {(y, x): iou for x, id in enumerate(ids, 2) if not np.isnan(iou := episode.iou(id))}
        cells.append(row)
    rows = ["\n".join([*wrap(kind, 16), pictures.row_name(episode.first)]) for kind, episode in shown]
    return pictures.mosaic(cells, columns, rows, ious, path)
