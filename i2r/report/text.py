"""Numbers as text, and tables of text as Markdown or HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pandas as pd
from markupsafe import Markup
from pandas.io.formats.style import Styler

DASH = "-"
BEST, SECOND = "best", "second"


def number(value: float | None, digits: int = 1) -> str:
    """The value as text; a dash if it is missing."""
    return DASH if value is None or pd.isna(value) else f"{value:.{digits}f}"


def with_interval(value: float, low: float, high: float, digits: int = 1) -> str:
    """`52.1 [50.0, 54.2]`."""
    if pd.isna(value) or pd.isna(low):
        return number(value, digits)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def with_deviation(value: float, deviation: float, digits: int = 1) -> str:
    """`52.1 ± 0.4`; without a deviation the value alone."""
    return number(value, digits) + ("" if pd.isna(deviation) else f" ± {deviation:.{digits}f}")


def bracket(low: float, high: float, digits: int = 1) -> str:
    """`[50.0, 54.2]`; a dash if it is missing."""
    return DASH if pd.isna(low) or pd.isna(high) else f"[{low:.{digits}f}, {high:.{digits}f}]"


def points(value: float, low: float = float("nan"), high: float = float("nan"), *, digits: int = 1) -> str:
    """`+3.2 [+1.0, +5.4]`."""
    if pd.isna(value):
        return DASH
    ends = "" if pd.isna(low) else f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{value:+.{digits}f}{ends}"


def listed(words: Sequence[object], last: str = "and") -> str:
    """`a, b and c`."""
    texts = [str(word) for word in words]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {last} {texts[-1]}"


def folds_said(folds: Sequence[int]) -> str:
    """`fold 0`, or `the mean of folds 0 and 1`."""
    if len(folds) == 1:
        return f"fold {folds[0]}"
    row = len(folds) > 2 and list(folds) == list(range(folds[0], folds[-1] + 1))
    return f"the mean of folds {f'{folds[0]} to {folds[-1]}' if row else listed(folds)}"


def counted(number: int, word: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def strong(text: str) -> Markup:
    """The HTML of a sentence in which **...** marks bold text."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text, quote=False)))


@dataclass
class Grid:
    """A table of text.

    Attributes:
        header: (group, name) of each column; the group may be empty.
        words: number of columns, from the first, that hold text, not numbers.
        marks: (row, column) -> BEST or SECOND.
        quiet: rows shown in grey, such as published numbers.
        title, note: above and below the table.
    """

    header: list[tuple[str, str]]
    rows: list[list[str]]
    words: int = 1
    marks: dict[tuple[int, int], str] = field(default_factory=dict)
    quiet: set[int] = field(default_factory=set)
    title: str = ""
    note: str = ""

    def mark(self, column: int, values: Iterable[float]) -> None:
        """Mark the largest and second largest of `values` (one for each row, from the first) in a column.

        Equal values have the same mark; if all are equal, nothing is marked.
        """
        known = pd.Series(list(values), dtype=float).dropna()
        levels = sorted(known.unique(), reverse=True)
        if len(levels) < 2:
            return
        names = dict(zip(levels, (BEST, SECOND), strict=False))
        self.marks |= {(int(row), column): names[value] for row, value in known.items() if value in names}

    def markdown(self, titled: bool = True) -> str:
        """The table as Markdown, with the best in bold and the second best underlined, as in the paper.

        titled: whether its title stands above it.
        """
        form = {BEST: "**{}**", SECOND: "<u>{}</u>", None: "{}"}
        lines = [": ".join(filter(None, names)) for names in self.header]
        rules = [":--" if at < self.words else "--:" for at in range(len(lines))]
        rows = [
            [form[self.marks.get((y, x))].format(text.replace("|", "\\|")) for x, text in enumerate(row)]
            for y, row in enumerate(self.rows)
        ]
        table = "\n".join("| " + " | ".join(row) + " |" for row in (lines, rules, *rows)) + "\n"
        title = f"**{self.title}**\n\n" if self.title and titled else ""
        return title + table + (f"\n{self.note}\n" if self.note else "")

    def html(self) -> Markup:
        """The table as HTML, with classes best, second, word, quiet and interval, which the page must style."""
        shown = pd.DataFrame(self.rows, columns=range(len(self.header)), dtype=object)
        classes = pd.DataFrame("", index=shown.index, columns=shown.columns, dtype=object)
        classes.iloc[:, : self.words] = "word"
        for (row, column), name in self.marks.items():
            classes.iat[row, column] += f" {name}"
        for row in self.quiet:
            classes.loc[row] += " quiet"
        styler = Styler(shown, uuid="", cell_ids=False).hide(axis="index").hide(axis="columns")
        text = styler.format(_cell).set_td_classes(classes).to_html()
        return Markup(f'<table class="grid">{self._head()}<tbody>{text.split("<tbody>", 1)[1]}')

    def _head(self) -> str:
        """The header: the names, below the groups if there are any."""
        lines = []
        if any(group for group, _ in self.header):
            spans = [(name, len(list(own))) for name, own in groupby(self.header, key=lambda names: names[0])]
            lines.append("".join(_th(name, "group" if name else "", span) for name, span in spans))
        kinds = ("word" if at < self.words else "" for at in range(len(self.header)))
        lines.append("".join(_th(name, kind) for (_, name), kind in zip(self.header, kinds, strict=True)))
        return "<thead>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</thead>"


def _th(name: str, kind: str, span: int = 1) -> str:
    kind, span = f' class="{kind}"' if kind else "", f' colspan="{span}"' if span > 1 else ""
    return f"<th{kind}{span}>{html.escape(name)}</th>"


def _cell(text: str) -> str:
    """An escaped cell, with the interval in smaller print, and `...` as code."""
    text = html.escape(text, quote=False)
    text = re.sub("`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"(?<=\S) (\[[^\]]+\])$", r' <span class="interval">\1</span>', text)
