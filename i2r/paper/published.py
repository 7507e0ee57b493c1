"""Published numbers (published.yaml), looked up by a method's network, backbone and components.

A method is given by its sections of params as plain values, as in the report's spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any, NamedTuple

import yaml

from i2r.config.readings import says

Sections = dict[str, Any]
BACKBONES = {"resnet50": "ResNet-50", "resnet101": "ResNet-101"}  # of Tables 1 and 2
NAMES = {"i2r": "I2R", "bam": "BAM"}  # network: its row of Tables 1 and 2
BY_FOLD = {"voc": "table1", "coco": "table2"}  # data source: the table with mIoU by fold


class Components(NamedTuple):
    """The components in a row of Table 3, as in published.yaml."""

    pmgm: bool
    support: bool
    mask: str
    mask_test: str


@cache
def published() -> dict[str, Any]:
    """The content of published.yaml: pages, table1, table2, table3, claims, table4."""
    return yaml.safe_load(files("i2r.paper").joinpath("published.yaml").read_text(encoding="utf-8"))


def components(sections: Sections, reading: str) -> Components | None:
    """The components of a method; None for a network without them, or with a prior that Table 3 does not have.

    The mask that the reading uses for DICM counts as DICM.
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


def claimed(methods: Mapping[str, tuple[Sections, str]]) -> list[tuple[str, str, str, float]]:
    """The paper's gains (Table 3) that these methods can show: what is added, the methods with and without it, gain.

    methods: name -> sections and reading.
    """
    rows = {name: table3_row(components(*method)) for name, method in methods.items()}
    found = []
    for claim in published()["claims"]:
        before, after = ([n for n in methods if rows[n] == claim[end]] for end in ("without", "with"))
        gain = table3(claim["with"]) - table3(claim["without"])
        found += [(claim["adding"], ours, theirs, gain) for ours, theirs in product(after, before)]
    return found


def table3(row: str) -> float:
    """mIoU (percent) of a row of Table 3: ResNet-50, 1-shot, mean of four folds."""
    return published()["table3"][row]["miou"]


def main_backbone(sections: Sections) -> str | None:
    """The backbone of a method, if Tables 1 and 2 have it; else None."""
    name = sections["backbone"]["name"].removesuffix("-bam")
    return name if name in BACKBONES else None


def main_name(sections: Sections, reading: str) -> str | None:
    """The row of Tables 1 and 2 for a method: its network, if it has all published components; else None."""
    name = NAMES.get(sections["network"]["name"])
    if "support_branch" in sections["network"] and table3_row(components(sections, reading)) != "full":
        return None
    return name


def by_fold(table: str, backbone: str, name: str, shot: int) -> list[float] | None:
    """mIoU (percent) of folds 0 to 3 and their mean in table1 or table2; None if the paper does not have them."""
    return published()[table].get(backbone, {}).get(name, {}).get(shot)


def table4(prior: str) -> float | None:
    """The paper's mean cross-entropy of a prior: ResNet-50, 1-shot."""
    values = published()["table4"].get(prior)
    return values and values["mean"][-1]
