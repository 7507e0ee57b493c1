"""Does what the paper prints follow from its own tables? audit.yaml has the formulas, here they are computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, sqrt
from typing import Any

import numpy as np

from i2r.config.paper_targets import paper_files

FOLDS = 4
Shots = Mapping[
    str, Mapping[str, Mapping[int, Sequence[float]]]
]  # backbone -> method -> shots -> folds, mean


@dataclass(frozen=True)
class Row:
    """A number of the paper and what its tables give.

    Attributes:
        where: table or section in which it is printed.
        printed: as printed, so that its digits are known; None for a statement without a number.
        computed: by the formula.
    """

    where: str
    says: str
    printed: str | None
    computed: float
    formula: str
    note: str

    @property
    def follows(self) -> bool | None:
        """Whether the printed number is the computed one, rounded to the printed digits; None without a number."""
        if self.printed is None:
            return None
        unit = 10.0 ** -len(self.printed.partition(".")[2])
        return abs(float(self.printed) - self.computed) <= 0.5 * unit + 1e-9


def audit() -> list[Row]:
    """All rows of audit.yaml, computed."""
    return [
        Row(
            where=row["where"],
            says=row["says"],
            printed=row["printed"],
            computed=float(value(row["formula"])),
            formula=row["formula"],
            note=row.get("note", ""),
        )
        for row in paper_files()["audit"]["rows"]
    ]


def value(formula: str | float) -> float:
    """The value of a formula of i2r/paper/*.yaml over the published tables: `table1[...]`, `table_s1[...]`."""
    files = paper_files()
    tables = {
        name.replace("-", "_"): file["published"] for name, file in files.items() if "published" in file
    }
    own = {"own1": files["table1"]["own"], "own2": files["table2"]["own"]}
    return eval(str(formula), {**tables, **own, **FUNCTIONS})


# --- functions of the formulas -----------------------------------------------------------------------------------


def mean(cells: Sequence[float]) -> float:
    """Mean of the folds of a printed row."""
    return mean_of(cells[:FOLDS])


def mean_of(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def spread(deviations: Sequence[float]) -> float:
    """Standard deviation of the mean over independent folds with these deviations."""
    return sqrt(sum(one**2 for one in deviations[:FOLDS])) / FOLDS


def lead(table: Shots, backbone: str, shot: int, at: int) -> float:
    """I2R less the best peer in a column (0 to 3: folds, 4: the printed mean)."""
    rows = table[backbone]
    return rows["I2R"][shot][at] - max(row[shot][at] for name, row in rows.items() if name != "I2R")


def gain(table: Shots, backbone: str, shot: int) -> float:
    """I2R less the best peer, by the printed means."""
    return lead(table, backbone, shot, FOLDS)


def fold_gain(table: Shots, backbone: str, shot: int) -> float:
    """I2R less the best peer, by the means of the folds."""
    rows = table[backbone]
    return mean(rows["I2R"][shot]) - max(mean(row[shot]) for name, row in rows.items() if name != "I2R")


def fb_gain(source: str, backbone: str, at: int) -> float:
    """I2R's FB-IoU less the best peer's in Table S2."""
    rows = paper_files()["table-s2"]["published"][source][backbone]
    return rows["I2R"][at] - max(row[at] for name, row in rows.items() if name != "I2R")


def lowest(table: Shots, backbone: str, shot: int) -> int:
    """The fold in which I2R is lowest."""
    return int(np.argmin(table[backbone]["I2R"][shot][:FOLDS]))


def cells(side: int) -> int:
    """Cells of layer3 of a ResNet that is not dilated: four steps of stride 2, each padded to the next whole cell."""
    for _ in range(4):
        side = floor((side + 1) / 2)
    return side * side


FUNCTIONS: dict[str, Any] = {
    function.__name__: function
    for function in (mean, mean_of, spread, lead, gain, fold_gain, fb_gain, lowest, cells)
}
