"""IoU of each class, and names of the classes of a backbone's classifier."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from i2r.report.finished import Finished
from i2r.report.results import Results
from i2r.report.text import BEST, Grid, number

NOTE = "IoU in percent, means over training and evaluation seeds; the best of each class is bold."


def grids(results: Results, labels: Mapping[str, str]) -> list[Grid]:
    """A table for each data set and number of shots: scored classes by trained methods."""
    table = results.per_class
    table = table[table["on"].isna() & table["iou"].notna()]
    several = len(table[["dataset", "shot"]].drop_duplicates()) > 1
    found = []
    for (dataset, shot), own in table.groupby(["dataset", "shot"], sort=False):
        means = own.pivot_table(index=["fold", "class", "name"], columns="id", values="iou", sort=False)
        means = means.sort_index(level=["fold", "class"])[[id for id in results.methods if id in means]]
        header = [("", name) for name in ("Class", "Fold", *(labels[id] for id in means.columns))]
        grid = Grid(header, [], note=NOTE, title=f"{dataset}, {shot}-shot" if several else "")
        for at, ((fold, cls, name), row) in enumerate(means.iterrows()):
            grid.rows.append([f"{cls} {name}", str(fold), *map(number, row)])
            if row.nunique() > 1:
                grid.marks |= {(at, 2 + column): BEST for column in np.flatnonzero(row == row.max())}
        found.append(grid)
    return found


def class_names(job: Finished, known: Mapping[str, Finished]) -> dict[int, str]:
    """Class number, from 0 -> name: of the data set if the pipeline pretrained the backbone, else of ImageNet.

    Empty if the names are not known.
    """
    backbone = known.get(job.inputs.get("backbone", ""))
    if backbone is not None and "pretrain" in backbone.params.get("backbone", {}):
        data = known.get(job.inputs.get("data", ""))
        return dict(enumerate(data.data_set["classes"])) if data else {}
    return imagenet()


@cache
def imagenet() -> dict[int, str]:
    """ImageNet's class names, from torchvision's list, without importing torchvision, which imports torch."""
    found = find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        return {}
    path = Path(found.submodule_search_locations[0]) / "models" / "_meta.py"
    return (
        dict(enumerate(runpy.run_path(str(path)).get("_IMAGENET_CATEGORIES", []))) if path.is_file() else {}
    )
