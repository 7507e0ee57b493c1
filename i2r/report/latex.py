"""Tables and single numbers in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product

import pandas as pd
from pandas.io.formats.style import Styler

from i2r.report.target import Target
from i2r.report.text import BEST, SECOND, Grid, number

PACKAGES = "% Needs the packages booktabs, and amssymb for \\checkmark.\n"
SIGNS = str.maketrans({
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "[": "{[}", "]": "{]}",  # else options, at the begin of a row
    "²": r"\textsuperscript{2}", "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "–": "--", "·": r"$\cdot$",
    "→": r"$\rightarrow$", "←": r"$\leftarrow$", "≤": r"$\le$", "≥": r"$\ge$", "✓": r"\checkmark{}",
})  # fmt: skip
MARKS = {BEST: "textbf:--rwrap;", SECOND: "underline:--rwrap;"}
DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
MEASURES = {"miou": "mIoU", "fb_iou": "FB-IoU"}


def escaped(text: str) -> str:
    """Text for LaTeX. Signs that LaTeX knows only from packages are left as they are, in UTF-8."""
    return text.translate(SIGNS)


def table(grid: Grid, title: str) -> str:
    """A table with its title and note as caption; the best number is bold and the second best underlined."""
    groups = any(group for group, _ in grid.header)
    places = [(group, at) for at, (group, _) in enumerate(grid.header)] if groups else range(len(grid.header))
    shown = pd.DataFrame(grid.rows, columns=pd.Index(places), dtype=object)
    marks = pd.DataFrame("", index=shown.index, columns=shown.columns, dtype=object)
    for (row, column), name in grid.marks.items():
        marks.iat[row, column] = MARKS[name]
    styler = Styler(shown).hide(axis="index").format(escaped).apply(lambda _: marks, axis=None)
    styler.format_index(lambda at: escaped(grid.header[at][1]), axis="columns", level=int(groups))
    if groups:
        styler.format_index(escaped, axis="columns", level=0)
    caption = ". ".join(filter(None, (title, grid.title)))
    return styler.to_latex(
        hrules=True,
        caption=escaped(f"{caption}. {grid.note}".strip()),
        column_format="".join("l" if at < grid.words else "r" for at in range(len(grid.header))),
        multicol_align="c",
        position="t",
        position_float="centering",
    )


def document(tables: Iterable[tuple[str, Grid]]) -> str:
    """The text of a file with these tables and their titles."""
    return "\n".join([PACKAGES, *(table(grid, title) for title, grid in tables)])


def macros(targets: Iterable[Target]) -> str:
    """A macro for every mIoU and FB-IoU of each target, such as \\tableOneItworOneShotMiouFoldZero, in percent with one
    decimal."""
    found: dict[str, str] = {}
    for target in targets:
        for dataset, shot, (measure, said) in product(target.datasets, target.shots, MEASURES.items()):
            table = target.table(dataset, shot, measure)
            cells = {f"fold-{fold}": fold for fold in target.folds} | {"mean": "mean"}
            for (id, row), (cell, column) in product(table.iterrows(), cells.items()):
                if pd.notna(row[column]):
                    name = macro_name(target.name, id, f"{shot}-shot", measure, cell)
                    while name in found:  # of methods whose names differ in signs only
                        name += "X"
                    comment = f"{target.name}, {id}, {shot}-shot, {said}, {cell}"
                    found[name] = f"\\newcommand{{\\{name}}}{{{number(row[column])}}} % {comment}\n"
    return "".join(found.values())


def macro_name(*words: str) -> str:
    """A name of letters only: digits are spelled out, and what follows another sign begins with a capital letter."""
    name = "".join(map(_letters, words))
    return name[0].lower() + name[1:]


def _letters(text: str) -> str:
    """`i2r-ordered` -> `ItworOrdered`, `fold0` -> `FoldZero`."""
    text = re.sub(r"(?<=[a-z])\d(?=[a-z])", lambda digit: DIGITS[int(digit[0])].lower(), text)
    text = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", text)
    return "".join(word[0].upper() + word[1:] for word in re.findall("[A-Za-z]+", text))
