"""Published numbers (published.yaml), found by what a method is and never by what a number is.

A method is given by its sections of params as plain values, as the report's spec holds them.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from i2r.config.readings import says

Sections = dict[str, Any]
SIZE = 473  # side of the paper's images
PASCAL = {"train": 5953, "val": 1449}  # images of PASCAL-5i's lists
BACKBONES = {"resnet50": "ResNet-50", "resnet101": "ResNet-101"}  # of Table 1
NAMES = {"i2r": "I2R", "bam": "BAM"}  # network: its row of Table 1


class Components(NamedTuple):
    """What a row of Table 3 switches on; the fields of published.yaml."""

    pmgm: bool
    support: bool
    mask: str
    mask_test: str


@cache
def published() -> dict[str, Any]:
    """The file as it is: table1, table3, claims, table4."""
    return yaml.safe_load(files("i2r.paper").joinpath("published.yaml").read_text(encoding="utf-8"))


def components(sections: Sections, reading: str) -> Components | None:
    """The components of a method; None for a network without them, and for a prior that Table 3 has not.

    The mask that a reading has for DICM counts as DICM.
    """
    network = sections["network"]
    if not {"prior", "mask", "support_branch"} <= network.keys() or network["prior"] not in ("pmgm", "bam"):
        return None
    mask = "dicm" if network["mask"] == says(reading)["network.mask"] else network["mask"]
    test = sections["evaluate"]["mask"]
    return Components(network["prior"] == "pmgm", network["support_branch"], mask, test)


def table3_row(parts: Components | None) -> str | None:
    """The name of the row of Table 3 with these components; None if there is none."""
    if parts is None:
        return None
    rows = published()["table3"].items()
    return next((name for name, row in rows if all(row[k] == v for k, v in parts._asdict().items())), None)


def table3(row: str) -> float:
    """mIoU (percent) of a row of Table 3: ResNet-50, 1-shot, mean of four folds."""
    return published()["table3"][row]["miou"]


def table1_backbone(sections: Sections) -> str | None:
    """The backbone of Table 1 that a method has; None if it has another."""
    name = sections["backbone"]["name"].removesuffix("-bam")
    return name if name in BACKBONES else None


def table1_name(sections: Sections, reading: str) -> str | None:
    """The row of Table 1 that a method is: its network as published, with all components."""
    name = NAMES.get(sections["network"]["name"])
    if "support_branch" in sections["network"] and table3_row(components(sections, reading)) != "full":
        return None
    return name


def table1(backbone: str, name: str, shot: int) -> list[float] | None:
    """mIoU (percent) of folds 0 to 3 and their mean; None where the paper has none."""
    return published()["table1"].get(backbone, {}).get(name, {}).get(shot)


def table4(prior: str) -> float | None:
    """The paper's mean cross-entropy of a prior: ResNet-50, 1-shot."""
    values = published()["table4"].get(prior)
    return values and values["mean"][-1]
