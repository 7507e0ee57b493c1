"""The data sets of a report: images, classes, areas, classes that stand together, and how often each is queried."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from i2r.config.data_set import GENERATED
from i2r.data.describe import SAMPLES, Class, classes, queries, sizes, together
from i2r.data.index_table import INDEX, read_index
from i2r.report.figures import BLUE, GREY, ORANGE, STYLE, foot, save
from i2r.report.finished import Finished
from i2r.report.forms.shown import Figure
from i2r.report.results import Results
from i2r.report.text import Grid

NAMED = 25  # classes of a panel that are named below their bars


@dataclass
class DataSet:
    """A data set for the page.

    Attributes:
        sentences: about its images, and about the expected queries of each fold.
        tables: classes, and pairs of classes that stand together.
    """

    name: str
    sentences: list[str]
    figures: list[Figure]
    tables: list[Grid]


def data_sets(results: Results) -> list[DataSet]:
    """The data sets of the report, each from the index, sample pictures and lists of its jobs."""
    jobs = [job for job in results.jobs.values() if job.step == "data"]
    often = Counter(job.label for job in jobs)
    found = []
    for job in jobs:
        name = job.label if often[job.label] == 1 else f"{job.label}-{job.key[:6]}"
        found.append(_data_set(name, f"-{name}" if len(jobs) > 1 else "", job, results))
    return found


def _data_set(name: str, suffix: str, job: Finished, results: Results) -> DataSet:
    """suffix: of the names of its figures."""
    index, drawn = read_index(job.folder / INDEX, "sizes"), _queries(job, results)
    areas = [j.params["data"]["min_area"] for j in results.jobs.values() if _made_from(j, "lists", job)]
    least = min(areas, default=0)
    found = classes(index, least)
    sentences = [f"{sizes(index)} Digest {index['digest']}."]
    if index["source"] == GENERATED and _pretrained(results):
        sentences.append(
            f"The backbone small was pretrained on single objects of all {len(index['classes'])} kinds, test kinds "
            "included, as ImageNet's classes include those of VOC."
        )
    sentences += [_said(where, rows) for where, rows in drawn.items() if rows]
    shown = {
        "samples": ("Images from the lists, with their masks.", partial(shutil.copy, job.folder / SAMPLES)),
        "classes": ("Areas of the classes, and images of each.", partial(draw_classes, found)),
    }
    if any(drawn.values()):
        caption = "Queries that each class is expected to have, over seeds of the episodes."
        shown["queries"] = caption, partial(draw_queries, drawn)
    figures = [Figure(f"data-{kind}{suffix}", *values) for kind, values in shown.items()]
    return DataSet(name, sentences, figures, [_class_grid(found, least), _pair_grid(index)])


def _pretrained(results: Results) -> bool:
    """Whether a backbone was pretrained in the pipeline, on generated objects."""
    backbones = [job.params["backbone"] for job in results.jobs.values() if job.step == "backbone"]
    return any("pretrain" in values and values["weights"] is None for values in backbones)


def _made_from(job: Finished, step: str, data: Finished) -> bool:
    return job.step == step and job.inputs.get("data") == data.key


def _queries(data: Finished, results: Results) -> dict[str, list[tuple[str, float]]]:
    """For each fold and way of drawing episodes: name of each class and its expected queries, most first."""
    known, found, seen = results.known, {}, set()
    for job in results.jobs.values():
        lists = known.get(job.inputs.get("lists", "")) if job.step == "episodes" else None
        if lists is None or not _made_from(lists, "lists", data):
            continue
        way = {"protocol": "bam"} | job.params["evaluate"] | job.params["data"]
        if (unlike := (lists.key, *way.values())) in seen:  # other seeds and shots change next to nothing
            continue
        seen.add(unlike)
        where = f"Fold {job.args['fold']}"
        where += f" ({lists.label}, {way['protocol']})" if where in found else ""
        how = {"min_class_images": way["min_class_images"], "protocol": way["protocol"]}
        found[where] = queries(lists.json("lists.json"), way["episodes"], job.args["shot"], **how)
    return found


def _said(where: str, rows: Sequence[tuple[str, float]]) -> str:
    (top, most), (last, least) = rows[0], rows[-1]
    total = sum(count for _, count in rows)
    return (
        f"**{where}**: of {total:.0f} queries {most:.1f} ({100 * most / total:.0f} %) are expected to be of {top} and "
        f"{least:.1f} of {last}; mIoU weighs all {len(rows)} classes alike."
    )


# --- tables --------------------------------------------------------------------------------------------------


def _class_grid(found: Sequence[Class], min_area: int) -> Grid:
    header = [("", "Class"), ("", "Name")]
    header += [(f"images (with {min_area} pixels)", name) for name in ("training", "validation")]
    header += [("area, % of the image", name) for name in ("10 %", "median", "90 %")]
    rows = []
    for item in found:
        images = [f"{item.images[split]} ({item.large[split]})" for split in ("train", "val")]
        areas = [f"{area:.1f}" for area in item.quantiles] or ["-"] * 3
        rows.append([str(item.cls), item.name, *images, *areas])
    note = (
        "Areas are those of the class in an image that shows it: 10 %, half and 90 % of the images have less."
    )
    return Grid(header, rows, words=2, title="Classes", note=note)


def _pair_grid(index: Mapping[str, Any]) -> Grid:
    header = [("", "Class"), ("", "Class"), ("", "Images with both")]
    rows = [[first, second, str(count)] for first, second, count in together(index)]
    note = "" if rows else "No image shows two classes."
    return Grid(header, rows, words=2, title="Classes that stand together most often", note=note)


# --- figures -------------------------------------------------------------------------------------------------


def draw_classes(found: Sequence[Class], path: Path) -> Path:
    """Areas of the classes in images as a histogram, and the number of images of each class, most first."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 2.9), width_ratios=(1, 1.7))
        areas = np.concatenate([item.areas for item in found])
        left.hist(areas, bins=np.logspace(-2, 2, 33), color=BLUE)
        left.set(xscale="log", xlim=(0.01, 100), title="Area of a class in an image", xlabel="% of the image")
        left.set_ylabel("images and classes")
        ordered = sorted(found, key=lambda item: -sum(item.images.values()))
        places = np.arange(len(ordered))
        train, val = (np.array([item.images[split] for item in ordered]) for split in ("train", "val"))
        right.bar(places, train, width=0.8, color=BLUE, label="training")
        right.bar(places, val, width=0.8, bottom=train, color=ORANGE, label="validation")
        right.set(title="Images of each class", xlim=(-0.6, len(ordered) - 0.4))
        right.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98))
        _named(right, [item.name for item in ordered])
        figure.tight_layout()
        return save(figure, path)


def draw_queries(drawn: Mapping[str, Sequence[tuple[str, float]]], path: Path) -> Path:
    """A panel for each entry: bars of the expected queries of each class, most first."""
    panels = {where: rows for where, rows in drawn.items() if rows}
    wide = min(4, len(panels))
    high = -(-len(panels) // wide)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(high, wide, figsize=(max(2.7 * wide, 5), 2.9 * high), squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (where, rows) in zip(axes.flat, panels.items(), strict=False):
            counts = [count for _, count in rows]
            axis.bar(range(len(rows)), counts, color=[ORANGE, *[GREY] * (len(rows) - 1)])
            axis.set(title=where, xlim=(-0.6, len(rows) - 0.4), ylim=(0, 1.2 * max(counts)))
            text = f"{rows[0][0]} {100 * counts[0] / sum(counts):.0f} %"
            axis.text(0.98, 0.95, text, transform=axis.transAxes, ha="right", va="top", color="#8C5A00")
            _named(axis, [name for name, _ in rows])
        figure.supylabel("queries", fontsize=9, x=0.01)
        figure.tight_layout()
        foot(figure, "the class with most queries is orange")
        return save(figure, path)


def _named(axis: plt.Axes, names: Sequence[str]) -> None:
    """Names below the bars, if they can be read."""
    if len(names) > NAMED:
        axis.set(xticks=[], xlabel=f"{len(names)} classes")
        return
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.tick_params(axis="x", length=0)
