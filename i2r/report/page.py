"""report.html, a self-contained page, and the same as Markdown."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from i2r.files import write_text
from i2r.progress import duration
from i2r.report import checklist, classes, controls, cost, origin, strata
from i2r.report.data_sets import DataSet
from i2r.report.forms.shown import Figure, Shown
from i2r.report.results import Results
from i2r.report.target import Target
from i2r.report.text import Grid, number, strong
from i2r.report.verdicts import audit_grid

FILES = ("report.html", "report.md")  # each from its template
PHOTOGRAPH = 300_000  # bytes of a PNG above which it is embedded as JPEG, because it shows images
SCALE = 0.6  # of a figure on the page; figures have more pixels, for high-density screens


def excluded_classes(results: Results) -> list[str]:
    """A sentence for each class left out of the means."""
    table = results.per_class
    rows = table[table["why"].notna()].drop_duplicates(["dataset", "shot", "fold", "class"])
    return [
        f"{row['dataset']}, fold {row['fold']}, {row['shot']}-shot, class {row['class']} ({row['name']}): {row['why']}"
        for _, row in rows.iterrows()
    ]


def left_out_images(results: Results) -> list[str]:
    """A sentence for each image that a data set lacks because it or its mask is not usable."""
    data = [job for job in results.jobs.values() if job.step == "data"]
    return [f"{job.label}: {why}" for job in data for why in job.data_set.get("left_out", {}).values()]


def vanished_queries(results: Results, labels: dict[str, str]) -> Grid:
    """mIoU with and without the queries of whose object nothing is left, of each fold that has some; means of seeds."""
    header = ["Method", "Data", "Shots", "Fold", "queries", "of", "mIoU", "without them"]
    grid = Grid([("", name) for name in header], [], words=2)
    table = results.evaluations
    table = table[table["vanished_queries"].fillna(0) > 0]
    values = ["vanished_queries", "episodes", "miou", "miou_without_vanished"]
    for (id, data, shot, fold), rows in table.groupby(["id", "dataset", "shot", "fold"], sort=False):
        lost, episodes, with_them, without = rows[values].astype(float).mean()
        counts = [str(shot), str(fold), f"{lost:g}", f"{episodes:g}"]
        grid.rows.append([labels[id], data, *counts, number(with_them), number(without)])
    return grid


def embedded(figure: Figure, folder: Path) -> dict[str, Any]:
    """A drawn figure for the template: src (its content), width and height in CSS pixels."""
    path = folder / f"{figure.name}.png"
    kind, content = "png", path.read_bytes()
    with Image.open(path) as image:
        width, height = image.size
        if len(content) > PHOTOGRAPH:
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "jpeg", quality=86)
            kind, content = "jpeg", buffer.getvalue()
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"src": source, "width": round(SCALE * width), "height": round(SCALE * height)}


def content(
    results: Results,
    judged: Sequence[Grid],
    shown: Sequence[tuple[Target, Shown]],
    controlled: pd.DataFrame,
    kinds: Sequence[Grid],
    costs: pd.DataFrame,
    gallery: tuple[list[Figure], list[Figure], dict[str, list[Figure]]],
    sets: Sequence[DataSet],
    labels: dict[str, str],
    commands: Mapping[str, str],
) -> dict[str, Any]:
    """What the page shows, for its templates.

    Args:
        judged: from verdicts.write.
        controlled: from controls.table.
        kinds: tables by kind of episode.
        costs: from cost.table.
        gallery: loss curves, comparisons of episodes, and episodes of each method.
        sets: the data sets.
        commands: target -> the command that makes it; "" -> the one that makes the whole report.
    """
    curves, compared, own = gallery
    jobs = list(results.jobs.values())
    thin = vanished_queries(results, labels)
    excluded, left_out = excluded_classes(results), left_out_images(results)
    return {
        "experiment": results.params["experiment"],
        "readings": list(dict.fromkeys(method["reading"] for method in results.methods.values())),
        "datasets": list(dict.fromkeys(results.evaluations["dataset"])),
        "methods": origin.methods(results, labels),
        "labels": labels,
        "numbers": len(results.scored),
        "jobs": len(jobs),
        "total": duration(sum(job.cost["seconds"] for job in jobs)),
        "judged": judged,
        "audit": audit_grid(),
        "targets": shown,
        "commands": commands,
        "controls": controls.grids(controlled, labels),
        "used": controls.sentences(controlled, labels),
        "about_kinds": strata.ABOUT,
        "classes": classes.grids(results, labels),
        "kinds": kinds,
        "masks": controls.mask_grid(results, labels),
        "excluded": excluded,
        "left_out": left_out,
        "vanished": thin if thin.rows else None,
        "missing": results.missing(),
        "curves": curves,
        "sets": sets,
        "compared": compared,
        "episodes": own,
        "costs": cost.grids(costs),
        "checklist": checklist.grids(results, labels, commands, [*left_out, *excluded], costs),
        "environment": origin.environment(jobs),
    }


def write(out: Path, values: Mapping[str, Any]) -> None:
    """Write report.html, which is self-contained, and report.md to a folder that has their figures in figures/.

    Args:
        values: from `content`.
    """
    for name in FILES:
        text = templates().get_template(f"{name}.j2").render(values, folder=out / "figures")
        write_text(out / name, re.sub(r"\n{3,}", "\n\n", text))


@cache
def templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("i2r.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["embedded"] = embedded
    environment.filters["strong"] = strong
    return environment
