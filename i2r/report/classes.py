"""Names of the classes of a backbone's classifier."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from i2r.report.results import Finished


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
