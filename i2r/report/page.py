"""report.html: a self-contained page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from PIL import Image

from i2r.report import controls, cost, origin, strata
from i2r.report.data_sets import DataSet
from i2r.report.forms.shown import Figure, Shown
from i2r.report.results import Results
from i2r.report.target import Target
from i2r.report.text import Grid, number, strong
from i2r.report.verdicts import audit_grid

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


def picture(figure: Figure, folder: Path) -> dict[str, Any]:
    """A drawn figure for the template: src (its content), width in CSS pixels, caption."""
    path = folder / f"{figure.name}.png"
    kind, content = "png", path.read_bytes()
    with Image.open(path) as image:
        width = image.width
        if len(content) > PHOTOGRAPH:
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "jpeg", quality=86)
            kind, content = "jpeg", buffer.getvalue()
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"src": source, "width": round(SCALE * width), "caption": figure.caption}


def for_template(grid: Grid) -> dict[str, Any]:
    """A table for the template: title, note and html."""
    return {"title": grid.title, "note": grid.note, "html": Markup(grid.html())}


def render(
    results: Results,
    judged: Sequence[Grid],
    shown: Sequence[tuple[Target, Shown]],
    controlled: pd.DataFrame,
    kinds: Sequence[Grid],
    costs: pd.DataFrame,
    gallery: tuple[list[Figure], list[Figure], dict[str, list[Figure]]],
    sets: Sequence[DataSet],
    labels: dict[str, str],
    figures: Path,
) -> str:
    """The page.

    Args:
        judged: from verdicts.write.
        controlled: from controls.table.
        kinds: tables by kind of episode.
        costs: from cost.table.
        gallery: loss curves, comparisons of episodes, and episodes of each method.
        sets: the data sets.
        figures: folder with all figures.
    """
    curves, compared, own = gallery
    jobs = list(results.jobs.values())
    rows = results.params["runs"]
    targets = [
        {
            "name": target.name,
            "title": made.title,
            "sentences": [Markup(strong(text)) for text in made.sentences],
            "figures": [picture(figure, figures) for figure in made.figures],
            "grids": [for_template(grid) for grid in made.grids],
        }
        for target, made in shown
    ]
    thin = vanished_queries(results, labels)
    return template().render(
        experiment=results.params["experiment"],
        readings=list(dict.fromkeys(method["reading"] for method in results.methods.values())),
        datasets=list(dict.fromkeys(results.evaluations["dataset"])),
        methods=origin.methods(results, labels),
        numbers=len(results.scored),
        seeds=sorted({row["seed"] for row in rows}),
        jobs=len(jobs),
        judged=[for_template(grid) for grid in judged],
        audit=for_template(audit_grid()),
        total=origin.clock(sum(job.cost["seconds"] for job in jobs)),
        targets=targets,
        controls=[for_template(grid) for grid in controls.grids(controlled, labels)],
        about_kinds=strata.ABOUT,
        kinds=[for_template(grid) for grid in kinds],
        masks=for_template(masks) if (masks := controls.mask_grid(results, labels)) else None,
        used=[Markup(strong(text)) for text in controls.sentences(controlled, labels)],
        excluded=excluded_classes(results),
        left_out=left_out_images(results),
        vanished=Markup(thin.html()) if thin.rows else None,
        missing=results.missing(),
        curves=[picture(figure, figures) for figure in curves],
        sets=[
            {
                "name": found.name,
                "sentences": [Markup(strong(text)) for text in found.sentences],
                "figures": [picture(figure, figures) for figure in found.figures],
                "grids": [for_template(grid) for grid in found.tables],
            }
            for found in sets
        ],
        compared=[picture(figure, figures) for figure in compared],
        episodes=[(labels[id], [picture(figure, figures) for figure in own[id]]) for id in own],
        costs=[for_template(grid) for grid in cost.grids(costs)],
        environment=Markup(origin.environment(jobs).html()),
    )


@cache
def template() -> Any:
    environment = Environment(
        loader=PackageLoader("i2r.report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
