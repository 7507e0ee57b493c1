"""Published numbers (i2r/paper/*.yaml), looked up by a method's network, backbone and components.

A method is given by its sections of params as plain values, as in the report's spec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, NamedTuple

from i2r.config.paper_targets import paper_files
from i2r.config.readings import says

Sections = dict[str, Any]
BACKBONES = {"resnet50": "ResNet-50", "resnet101": "ResNet-101"}  # of Tables 1 and 2
NAMES = {"i2r": "I2R", "bam": "BAM"}  # network: its row of Tables 1 and 2
BY_FOLD = {"voc": "table1", "coco": "table2"}  # data source: the table with mIoU by fold
MEAN = "mean"  # a column
FOLDS = ("fold-0", "fold-1", "fold-2", "fold-3")


class Components(NamedTuple):
    """The components in a row of Table 3, as in table3.yaml."""

    pmgm: bool
    support: bool
    mask: str
    mask_test: str


def published(table: str) -> Any:
    """The printed values of a table or figure; each file describes its own."""
    return paper_files()[table]["published"]


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
    rows = published("table3").items()
    return next((name for name, row in rows if all(row[k] == v for k, v in parts._asdict().items())), None)


def claimed(methods: Mapping[str, tuple[Sections, str]]) -> list[tuple[str, str, str, float]]:
    """The paper's gains (Table 3) that these methods can show: what is added, the methods with and without it, gain.

    methods: name -> sections and reading.
    """
    rows = {name: table3_row(components(*method)) for name, method in methods.items()}
    found = []
    for gain in paper_files()["table3"]["gains"]:
        before, after = ([n for n in methods if rows[n] == gain[end]] for end in ("without", "with"))
        points = table3(gain["with"]) - table3(gain["without"])
        found += [(gain["adding"], ours, theirs, points) for ours, theirs in product(after, before)]
    return found


def table3(row: str) -> float:
    """mIoU (percent) of a row of Table 3: ResNet-50, 1-shot, mean of four folds."""
    return published("table3")[row]["miou"]


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
    return published(table).get(backbone, {}).get(name, {}).get(shot)


def table4(prior: str) -> float | None:
    """The paper's mean cross-entropy of a prior: ResNet-50, 1-shot."""
    values = published("table4").get(prior)
    return values and values["mean"][-1]


# --- the printed numbers of one method in any table -----------------------------------------------------------------

Columns = dict[str, float]  # fold-0 ... fold-3, mean -> the printed value


def printed(table: str, sections: Sections, reading: str, shot: int) -> Columns:
    """The numbers that a table or figure prints for a method; empty if it prints none.

    A method is found by what it is, not by its name, and with the backbone of ResNet-50 where it has another that the
    paper lacks: whether the numbers may be compared is another question (comparable.py).
    """
    find = PRINTED.get(table)
    return find(sections, reading, shot) if find else {}


def _main(table: str) -> Callable[[Sections, str, int], Columns]:
    def find(sections: Sections, reading: str, shot: int) -> Columns:
        name = main_name(sections, reading)
        values = name and by_fold(table, main_backbone(sections) or "resnet50", name, shot)
        return dict(zip((*FOLDS, MEAN), values, strict=True)) if values else {}

    return find


def _components(sections: Sections, reading: str, shot: int) -> Columns:
    row = table3_row(components(sections, reading))
    return {MEAN: table3(row)} if row and shot == 1 else {}


def _cam(sections: Sections, reading: str, shot: int) -> Columns:
    found = published("table6").get(sections["network"].get("cam"))
    full = table3_row(components(sections, reading)) == "full"
    return {MEAN: found} if found and full and shot == 1 else {}


def _grid(sections: Sections, reading: str, shot: int) -> Columns:
    network = sections["network"]
    found = published("table-s1").get(network.get("blocks"), {}).get(network.get("cross"))
    full = table3_row(components(sections, reading)) == "full"
    return {MEAN: found} if found and full and shot == 1 else {}


def _fb_iou(sections: Sections, reading: str, shot: int) -> Columns:
    name, source = main_name(sections, reading), sections["data"]["source"]
    rows = published("table-s2")[source if source in BY_FOLD else "voc"]
    values = rows[main_backbone(sections) or "resnet50"].get(name)
    return {MEAN: values[(1, 5).index(shot)]} if values and shot in (1, 5) else {}


def _decoders(sections: Sections, reading: str, shot: int) -> Columns:
    found = published("figure4").get(sections["network"].get("blocks"))
    alone = table3_row(components(sections, reading)) == "decoder"
    return {MEAN: found} if found and alone and shot == 1 else {}


def _threshold(sections: Sections, reading: str, shot: int) -> Columns:
    found = published("figure5").get(threshold(sections))
    full = table3_row(components(sections, reading)) == "full"
    return {MEAN: found} if found and full and shot == 1 else {}


def threshold(sections: Sections) -> float | str | None:
    """The CAM threshold at test."""
    own = sections["evaluate"]["delta"]
    return sections["network"].get("delta") if own is None else own


PRINTED: dict[str, Callable[[Sections, str, int], Columns]] = {
    "table1": _main("table1"),
    "table2": _main("table2"),
    "table3": _components,
    "table6": _cam,
    "table-s1": _grid,
    "table-s2": _fb_iou,
    "figure4": _decoders,
    "figure5": _threshold,
}
