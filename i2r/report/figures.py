"""Charts of the report: scores with intervals, loss curves, quality of priors.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish; methods also differ by position or
line style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, GREEN, RED, PURPLE, ORANGE, SKY, "#000000", "#8C6D31", "#F0E442")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
GREY, INK = "#A6A6A6", "#333333"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.dpi": 170,
}


def colours(methods: Sequence[str]) -> dict[str, str]:
    """A colour for each method, by its position."""
    return {method: COLOURS[at % len(COLOURS)] for at, method in enumerate(methods)}


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG without date or version, so that equal numbers give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Software": None}, facecolor="white")
    plt.close(figure)
    return path


def foot(figure: Figure, text: str) -> None:
    """A line of explanation below the axes."""
    figure.text(0.01, 0, text, fontsize=8.5, va="top")


def gap(reason: str, path: Path) -> Path:
    """A figure with the reason why there is nothing to draw."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(7, 1.2))
        figure.text(0.02, 0.5, f"No picture: {reason}", va="center", wrap=True)
        return save(figure, path)


# --- scores ----------------------------------------------------------------------------------------------


def score_bars(
    panels: Mapping[str, pd.DataFrame],
    ids: Sequence[str],
    colour: Mapping[str, str],
    labels: Mapping[str, str],
    path: Path,
) -> Path:
    """Bars of mIoU, with a panel for each entry of `panels` and a row for each id.

    Args:
        panels: title -> columns value, low, high (percent) by id; a missing value is drawn as a dash.
        colour: of trained methods; baselines are grey.
    """
    top = max((t[["value", "high"]].max().max() for t in panels.values()), default=0)
    top = 100 if pd.isna(top) else min(100, 1.12 * top + 6)
    with plt.rc_context(STYLE):
        size = (2.4 + 1.75 * len(panels), 0.7 + 0.3 * len(ids))
        figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
        rows = np.arange(len(ids))[::-1]
        for at, (axis, (name, table)) in enumerate(zip(axes[0], panels.items(), strict=True)):
            table = table.reindex(ids)
            for row, method in zip(rows, ids, strict=True):
                value, low, high = table.loc[method, ["value", "low", "high"]]
                if pd.isna(value):
                    axis.text(1, row, "–", va="center", color=GREY)
                    continue
                axis.barh(row, value, height=0.66, color=colour.get(method, GREY), zorder=2)
                end = value
                if pd.notna(low):
                    axis.plot([low, high], [row, row], color="black", linewidth=1.1, zorder=3)
                    end = high
                axis.text(end + 0.015 * top, row, f"{value:.1f}", va="center", fontsize=8)
            axis.set(xlim=(0, top), title=name, yticks=rows, yticklabels=[labels[m] for m in ids])
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x", color="#E5E5E5", zorder=0)
            if at == len(panels) - 1 and at:
                axis.set_facecolor("#F6F6F6")
        figure.tight_layout(w_pad=0.6)
        foot(figure, "mIoU in percent; black line: 95 %, images")
        return save(figure, path)


def prior_dots(
    table: pd.DataFrame,
    folds: Sequence[int],
    labels: Mapping[str, str],
    lower: Mapping[str, bool],
    path: Path,
) -> Path:
    """Table 4 as a figure, with a panel for each measure and a row for each prior; dots are folds, a mark their mean.

    Args:
        table: measure, prior, fold-F ..., mean. labels: of priors, in the order of the rows.
        lower: measure -> whether lower is better.
    """
    names = [p for p in labels if p in set(table["prior"])]
    names += sorted(set(table["prior"]) - set(names))
    marks = colours(names)
    titles = {
        "bce": "Cross-entropy",
        "bce_calibrated": "Calibrated",
        "ap": "AP, %",
        "iou_best": "Best IoU, %",
    }
    lower = {measure: lower[measure] for measure in titles if measure in lower}
    with plt.rc_context(STYLE):
        size = (9.6, 0.95 + 0.38 * len(names))
        figure, axes = plt.subplots(1, len(lower), figsize=size, sharey=True)
        for axis, measure in zip(axes, lower, strict=True):
            own = table[table["measure"] == measure].set_index("prior")
            for row, prior in zip(range(len(names))[::-1], names, strict=True):
                if prior not in own.index:
                    continue
                cells = own.loc[prior, [f"fold-{f}" for f in folds]].astype(float)
                axis.scatter(
                    cells, [row] * len(cells), s=26, color=marks[prior], alpha=0.35, linewidth=0, zorder=2
                )
                mean = own.at[prior, "mean"]
                if pd.notna(mean):
                    axis.scatter(
                        [mean], [row], s=150, marker="|", linewidth=2.6, color=marks[prior], zorder=3
                    )
                    text = f"{mean:.1f}" if measure in ("ap", "iou_best") else f"{mean:.2f}"
                    axis.annotate(
                        text, (mean, row), (0, 8), textcoords="offset points", ha="center", fontsize=8
                    )
            better = "(← better)" if lower[measure] else "(better →)"
            axis.set(
                title=f"{titles[measure]}  {better}",
                yticks=range(len(names))[::-1],
                ylim=(-0.5, len(names) - 0.3),
            )
            axis.set_yticklabels([labels.get(p, p) for p in names])
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x", color="#E5E5E5", zorder=0)
            axis.margins(x=0.12)
        figure.tight_layout(w_pad=1.6)
        foot(figure, "dots: folds; bar and number: their mean")
        return save(figure, path)


# --- training --------------------------------------------------------------------------------------------


def loss_curves(curves: pd.DataFrame, labels: Mapping[str, str], path: Path) -> Path:
    """Smoothed training loss by step; see `training_curves`.

    The main loss is drawn if all methods have it, because total losses with and without auxiliary losses cannot be
    compared.
    """
    column = "main" if "main" in curves and curves["main"].notna().all() else "loss"
    return training_curves(
        curves, column, "main loss (smoothed)" if column == "main" else "loss (smoothed)", labels, path
    )


def validation_curves(curves: pd.DataFrame, labels: Mapping[str, str], path: Path) -> Path:
    """mIoU of the validations during the training by step; see `training_curves`."""
    return training_curves(
        curves[curves["validation_miou"].notna()], "validation_miou", "mIoU, %", labels, path, dots=True
    )


def training_curves(
    curves: pd.DataFrame,
    column: str,
    title: str,
    labels: Mapping[str, str],
    path: Path,
    dots: bool = False,
    log: bool = False,
) -> Path:
    """A column of the training logs by step, with a panel for each fold (and shot) and a line for each method (mean of
    seeds).

    Args:
        title: of the vertical axis.
        labels: of all methods of the report, in order.
        dots: the values are few, so each is drawn as a dot and nothing is smoothed.
        log: draw them on a logarithmic axis, without values of 0.
    """
    methods = [m for m in labels if m in set(curves["method"])]
    colour, panels = colours(list(labels)), list(curves.groupby(["shot", "fold"]))
    style = dict(zip(methods, STYLES * (1 + len(methods) // len(STYLES)), strict=False))
    several = curves["shot"].nunique() > 1
    with plt.rc_context(STYLE):
        wide = min(4, len(panels))
        high = -(-len(panels) // wide)
        figure, axes = plt.subplots(
            high,
            wide,
            figsize=(max(2.9 * wide, 5), 2.6 * high + 0.5),
            sharex=True,
            sharey=True,
            squeeze=False,
        )
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        shown, low, top = {}, [], []
        for axis, ((shot, fold), part) in zip(axes.flat, panels, strict=False):
            for method in (m for m in methods if m in set(part["method"])):
                line = part[part["method"] == method].groupby("step")[column].mean().astype(float)
                look = {"color": colour[method], "linestyle": style[method]}
                shown[method], smooth = _curve(axis, line, look, dots)
                low.append(smooth.min())
                top.append(smooth.iloc[min(len(smooth) - 1, len(smooth) // 20) :].max())
            axis.set_title(f"{shot}-shot, fold {fold}" if several else f"Fold {fold}")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(color="#EEEEEE")
        room = 0.08 * (max(top) - min(low)) or 0.5  # of a single value there is no range
        if log:
            axes[0, 0].set_yscale("log")
        else:
            axes[0, 0].set_ylim(max(0, min(low) - 2 * room), max(top) + 2 * room)
        figure.supxlabel("training step", fontsize=9)
        figure.supylabel(title, fontsize=9, x=0.01)
        names = [m for m in methods if m in shown]
        figure.tight_layout()
        place = {"loc": "upper left", "bbox_to_anchor": (0.01, 0.0), "ncols": min(4, len(names))}
        figure.legend([shown[m] for m in names], [labels[m] for m in names], **place, handlelength=3)
        return save(figure, path)


def _curve(axis: plt.Axes, line: pd.Series, look: Mapping[str, Any], dots: bool) -> tuple[Line2D, pd.Series]:
    """Draw values by step, pale, and their smoothed course over them; returns the latter."""
    smooth = line.rolling(1 if dots else max(1, len(line) // 20), min_periods=1, center=True).mean()
    axis.plot(line.index, line, color=look["color"], alpha=0.13, linewidth=0.7)
    (drawn,) = axis.plot(smooth.index, smooth, **look, linewidth=1.6, marker="." if dots else None)
    return drawn, smooth


def line(table: pd.DataFrame, axis_title: str, title: str, path: Path) -> Path:
    """A score over a quantity, with its interval; rows whose quantity is a word are horizontal lines.

    table: columns x (a number or a word), mean, low, high.
    """
    words = table[table["x"].map(lambda x: isinstance(x, str))]
    numbers = table.drop(words.index).assign(x=lambda t: t["x"].astype(float)).sort_values("x")
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.2, 3.2))
        ends = (numbers["mean"] - numbers["low"], numbers["high"] - numbers["mean"])
        bars = None if numbers["low"].isna().any() else np.clip(ends, 0, None)
        axis.errorbar(
            numbers["x"], numbers["mean"], yerr=bars, color=BLUE, marker="o", markersize=4, capsize=2
        )
        for at, row in enumerate(words.itertuples()):
            axis.axhline(row.mean, color=COLOURS[1 + at % 8], linestyle="--", linewidth=1.4, label=row.x)
        if len(words):
            axis.legend(loc="best")
        axis.set(xlabel=axis_title, ylabel=title)
        axis.grid(color="#EEEEEE")
        return save(figure, path)
