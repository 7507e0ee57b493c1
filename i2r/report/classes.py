"""Names of the classes that a backbone's classifier knows."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from i2r.report.results import Finished


def class_names(job: Finished, known: Mapping[str, Finished]) -> dict[int, str]:
    """Names by number from 0: the data set's where the backbone was pretrained here, else ImageNet's.

    Empty where they are not known.
    """
    backbone = known.get(job.inputs.get("backbone", ""))
    if backbone is not None and "pretrain" in backbone.params.get("backbone", {}):
        data = known.get(job.inputs.get("data", ""))
        return dict(enumerate(data.json("index.json")["classes"])) if data else {}
    return imagenet()


@cache
def imagenet() -> dict[int, str]:
    """ImageNet's names, from torchvision's own list; torchvision itself would bring torch, which takes seconds."""
    found = find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        return {}
    path = Path(found.submodule_search_locations[0]) / "models" / "_meta.py"
    return (
        dict(enumerate(runpy.run_path(str(path)).get("_IMAGENET_CATEGORIES", []))) if path.is_file() else {}
    )
