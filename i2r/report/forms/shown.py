"""The output of a form, and functions that the forms share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from i2r.config.paper_targets import paper_files
from i2r.config.schema import WITHOUT_TTA
from i2r.paper.comparable import (
    CHECKPOINT,
    DATA,
    departures,
    obstacles,
    other_images,
    published_data,
)
from i2r.paper.published import PRINTED, main_backbone
from i2r.report.target import SPREADS, Target
from i2r.report.text import DASH, Grid, bracket, counted, listed, number, points, with_interval

EVERY_SETTING = ("table1", "table2", "table-s2")  # tables with both backbones and both numbers of shots


@dataclass
class Figure:
    """A figure of the report: its name (without .png), its caption, and a function that draws it to a path."""

    name: str
    caption: str
    draw: Callable[[Path], object]


@dataclass
class Shown:
    """A target in its form.

    Attributes:
        file: NAME of NAME.md and NAME.csv, shared by all targets of the form.
        frame: the numbers, for the CSV.
        grids: the tables.
        sentences: findings, computed from the numbers; ** marks bold text.
    """

    file: str
    title: str
    frame: pd.DataFrame
    grids: list[Grid]
    sentences: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def markdown(self) -> str:
        return f"# {self.title}\n\n" + "\n".join(grid.markdown() for grid in self.grids)


def suffix(target: Target, dataset: str, shot: int) -> str:
    """Suffix of a figure's name: data set and shot, if the target has several."""
    several = [f"-{dataset}"] if len(target.datasets) > 1 else []
    return "".join(several + ([f"-{shot}shot"] if len(target.shots) > 1 else []))


def setting(target: Target, dataset: str, shot: int) -> str:
    """`shapes, 1-shot`: data set and shot, if the target has several; else empty."""
    parts = [dataset] if len(target.datasets) > 1 else []
    return ", ".join(parts + ([f"{shot}-shot"] if len(target.shots) > 1 else []))


def prefixed(target: Target, dataset: str, shot: int, sentence: str) -> str:
    """A sentence with its setting as prefix, if the target has several."""
    where = setting(target, dataset, shot)
    return f"{where}: {sentence}" if where else sentence


# --- what brackets mean ---------------------------------------------------------------------------------------

IMAGES, SEEDS = "[95 %, images]", "[95 %, training seeds]"  # in headers
BRACKETS = (
    "Brackets: 95 % intervals; over images, by a bootstrap of the query images with all their episodes (the "
    "networks are the same), or over training seeds, by a t interval."
)


def add_spreads(grid: Grid, group: str, spreads: pd.DataFrame) -> None:
    """Add columns with the t interval over training seeds and the deviation over evaluation seeds, if there are any.

    Args:
        spreads: one row for each of the first rows of the grid, columns target.SPREADS in their order.
    """
    _, _, low, high, deviation = spreads.columns
    columns = []
    if spreads[low].notna().any():
        texts = [bracket(*ends) for ends in zip(spreads[low], spreads[high], strict=True)]
        columns.append((f"Mean {SEEDS}", texts))
    if spreads[deviation].notna().any():
        columns.append(("sd over evaluation seeds", [number(value, 2) for value in spreads[deviation]]))
    for title, texts in columns:
        grid.header.append((group, title))
        for at, row in enumerate(grid.rows):
            row.append(texts[at] if at < len(texts) else DASH)


ENDS = ("difference", "difference low", "difference high")  # columns of a difference and its interval


def compared_grid(
    target: Target,
    dataset: str,
    shot: int,
    table: pd.DataFrame,
    notes: Mapping[str, list[str]],
    reference: str,
    words: Mapping[str, Callable[[dict], str]],
    measure: str = "mIoU",
) -> Grid:
    """Methods by fold with their mean, its difference from one of them, and the paper's mean if it is comparable.

    Args:
        table: one row for each method: method, fold-F ..., mean, target.SPREADS, ENDS, paper.
        notes: id -> `not_of_table`.
        reference: the method with which the others are compared.
        words: header of a column before the numbers -> its text for a row of the table.
    """
    several = len(target.folds) > 1
    names = [*words, *(f"Fold {fold}" for fold in target.folds if several)]
    names += [f"{'Mean' if several else f'Fold {target.folds[0]}'} {IMAGES}", f"Difference {IMAGES}"]
    grid = Grid([("", name) for name in names], [], len(words), title=setting(target, dataset, shot))
    for row in table.to_dict("records"):
        texts = [text(row) for text in words.values()]
        texts += [number(row[f"fold-{fold}"]) for fold in target.folds if several]
        texts.append(with_interval(row["mean"], row["mean low"], row["mean high"]))
        texts.append("reference" if row["method"] == reference else points(*(row[name] for name in ENDS)))
        grid.rows.append(texts)
    grid.mark(len(names) - 2, table["mean"])
    add_spreads(grid, "", table[list(SPREADS)])
    if table["paper"].notna().any():
        grid.header.append(("", "paper, mean"))
        for row, value in zip(grid.rows, table["paper"], strict=True):
            row.append(number(value, 2))
    rests = rests_on(target, list(table["method"]), shot)
    grid.note = f"{measure} in percent. Differences are to the reference, and paired. {BRACKETS} "
    grid.note += f"Our numbers: {rests}. " if rests else ""
    grid.note += paper_note(target, notes)
    return grid


# --- comparison with the paper ---------------------------------------------------------------------------------


def differences(target: Target, id: str) -> list[str]:
    """Differences from the paper's setting, which make a method's numbers incomparable; empty if there are none."""
    method = target.method(id)
    found = obstacles(method["params"], method["reading"])
    return _other_images(target, id) + found if source_of(target, id) in DATA else found


def source_of(target: Target, id: str) -> str:
    """The data source of a method."""
    return target.method(id)["params"]["data"]["source"]


def not_of_table(target: Target, id: str, shot: int, table: str = "table3") -> list[str]:
    """`differences`, and those from the data set, ResNet-50 and the one shot with which the paper made a table.

    Tables 1, 2 and S2 have both backbones and 1 and 5 shots.
    """
    found = differences(target, id)
    data = paper_files()[table]["data"]
    if data and (source := source_of(target, id)) in DATA and source != data:
        found.append(f"the data set is {DATA[source].name}, not {DATA[data].name}")
    if table in EVERY_SETTING:
        return found + ([f"{shot} shots, not 1 or 5"] if shot not in (1, 5) else [])
    if main_backbone(target.method(id)["params"]) == "resnet101":
        found.append("the backbone is resnet101, not resnet50")
    return found + ([f"{shot} shots, not 1"] if shot != 1 else [])


def table_of(target: Target) -> str | None:
    """The paper's table or figure with whose numbers a target is compared; None for targets without one."""
    name = target.name if target.name in PRINTED else target.form
    return name if name in paper_files() else None


def title_of(target: Target) -> str:
    """The title of a target of the paper with the name of its data, or of the table whose form it has."""
    content = paper_files().get(target.name) or paper_files()[target.form]
    name = target.name if target.name in paper_files() else target.form
    kind, _, number = re.sub(r"^(table|figure)-?", r"\1 ", name).partition(" ")
    form = f" (form of the paper's {kind.capitalize()} {number.upper()})" if number else ""
    return f"{content['title']}, {listed(target.datasets)}{form}"


def _other_images(target: Target, id: str) -> list[str]:
    known = target.results.known
    keys = {item.job.inputs.get("data") for item in target.items if item.id == id}
    job = next((known[key] for key in keys if key in known), None)
    if job is None:
        return ["the data set is unknown"]
    return other_images(source_of(target, id), job.data_set["images"])


def departed(target: Target, id: str) -> list[str]:
    """In what a method whose numbers are comparable differs from the published setting nevertheless."""
    method = target.method(id)
    return departures(method["params"], method["reading"])


def paper_note(target: Target, notes: Mapping[str, list[str]]) -> str:
    """Which of the paper's numbers are shown and why, and in what each row differs. notes: id -> `differences`."""
    alike = [id for id, found in notes.items() if not found]
    groups: dict[str, list[str]] = {}
    for id, found in notes.items():
        groups.setdefault("; ".join(found), []).append(target.labels[id])
    known = listed(list(dict.fromkeys(published_data(source_of(target, id)).name for id in notes)))
    if not alike and len(groups) == 1:
        return (
            f"The paper's numbers ({known}) are not shown, because the setting differs: {next(iter(groups))}."
        )
    said = [f"Not shown for {listed(names)}: {why}." for why, names in groups.items() if why]
    if not alike:
        return " ".join([f"The paper's numbers ({known}) are not shown if the setting differs.", *said])
    said.insert(0, "The paper's numbers are shown where data set, backbone and image size are the same.")
    for id in alike:
        found = "; ".join(departed(target, id)) or "in nothing else that params say"
        said.append(f"{target.labels[id]} differs from the published setting: {found}.")
    return " ".join([*said, CHECKPOINT])


# --- seeds and differences --------------------------------------------------------------------------------------


def rests_on(target: Target, ids: list[str], shot: int) -> str:
    """How many training seeds the methods' numbers come from; empty if none was trained."""
    counts = [count for id in ids if (count := target.trainings(id, shot))]
    if not counts:
        return ""
    if max(counts) == 1:
        return "one training seed, so the intervals do not include the variation between trainings"
    fewest = f"{min(counts)} to " if min(counts) < max(counts) else ""
    return f"means over {fewest}{counted(max(counts), 'training seed')}"


def gain(target: Target, ours: str, theirs: str, shot: int) -> str:
    """`+3.2 [+1.0, +5.4]`: the difference of two methods in points of mIoU, over images; a dash if it is unknown."""
    return points(*target.difference(ours, theirs, shot))


def tta_gains(target: Target, dataset: str, shot: int) -> list[str]:
    """What test-time augmentation adds, for each method that has it: both numbers come from the same evaluations."""
    said = []
    for id in (id for id in target.of(dataset) if "@" not in id):
        alone = f"miou_{WITHOUT_TTA}"
        a, b = target.mean_samples(id, shot), target.mean_samples(id, shot, alone)
        if a is not None and b is not None:
            added = target.means(id, shot)["mean"] - target.means(id, shot, alone)["mean"]
            gained = points(added, *(a - b).interval())
            said.append(f"**{target.labels[id]}**: test-time augmentation adds {gained} points.")
    return said


BESIDE = ("evaluate.controls", "evaluate.pictures")  # params that change no score


def differing(target: Target, ours: str, theirs: str) -> list[str]:
    """The dotted keys in which the params of two methods differ, apart from BESIDE."""
    first, second = (flat(target.method(id)["params"]) for id in (ours, theirs))
    return [key for key in {**first, **second} if first.get(key) != second.get(key) and key not in BESIDE]


def unlike(target: Target, ours: str, theirs: str, most: int = 3) -> str:
    """`network.prior: ordered, not pmgm`: how the params of two methods differ; empty if more than `most` values do."""
    first, second = (flat(target.method(id)["params"]) for id in (ours, theirs))
    keys = differing(target, ours, theirs)
    if not keys or len(keys) > most:
        return ""
    return "; ".join(f"{key}: {said(first.get(key))}, not {said(second.get(key))}" for key in keys)


def flat(values: Mapping, prefix: str = "") -> dict[str, object]:
    """{"train.lr": 0.01} of {"train": {"lr": 0.01}}."""
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def said(value: object) -> str:
    """A value of the params as in YAML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(said, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
