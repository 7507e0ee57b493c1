"""The paper's Table 1 with our numbers, as Markdown for people and CSV for programs, and what all tables share.

The paper's own number stands beside ours where the setting is the same; elsewhere there is a dash, and
`differences` says what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import yaml

from i2r.report.results import Finished, interval, section

Samples = dict[
    tuple[str, int, int], np.ndarray
]  # (method, shot, fold) -> bootstrap samples of mIoU in percent

LABELS = {
    "i2r": "I²R",
    "i2r-ordered": "I²R, ordered prior (ours)",
    "bam": "BAM",
    "foreground": "everything foreground",
    "prior-pmgm": "prior PMGM, thresholded",
    "prior-ordered": "prior PMGM ordered (ours), thresholded",
    "prior-bam": "prior of BAM, thresholded",
    "prior-mean": "prior of one prototype, thresholded",
    "prototype": "prototype matching",
    "i2r-no-pmgm": "I²R without PMGM",
    "i2r-no-dicm": "I²R without DICM",
    "i2r-no-support": "I²R without DICM and support branch",
    "i2r-decoder": "decoder alone (BAM's prior)",
}
PUBLISHED = {"i2r": "I2R", "bam": "BAM"}  # our method: its name in the paper's Table 1
PASCAL = {"train": 5953, "val": 1449}  # images of PASCAL-5i's lists
DASH = "-"


def label(method: str) -> str:
    """A method's name for people."""
    return LABELS.get(method, method)


@cache
def paper() -> dict[str, Any]:
    """The published numbers (paper.yaml)."""
    return yaml.safe_load(files("i2r.report").joinpath("paper.yaml").read_text())


def differences(jobs: Sequence[Finished]) -> list[str]:
    """What keeps our numbers from standing beside the paper's; empty where the setting is comparable."""
    known = {job.key: job for job in jobs}
    job = next((job for job in jobs if job.step in ("evaluate", "baselines")), None)
    if job is None:
        return ["nothing has been evaluated"]
    data, backbone = section(job, "data", known), section(job, "backbone", known)
    found = []
    if data["source"] == "shapes":
        found.append("the data set is the embedded one, not PASCAL-5i")
    elif made := next((job for job in jobs if job.step == "data"), None):
        index = made.json("index.json")
        for part, count in PASCAL.items():
            if len(index[part]) != count:
                found.append(f"{len(index[part])} {part} images, not the {count} of PASCAL-5i")
    else:
        found.append("the data set's index is missing, so it may not be PASCAL-5i")
    if backbone["name"] not in paper()["table1"]:
        found.append(f"the backbone is {backbone['name']}, not ResNet-50 or ResNet-101")
    if data["size"] != 473:
        found.append(f"the image side is {data['size']}, not 473")
    return found


# --- Markdown --------------------------------------------------------------------------------------------


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are words and the others numbers."""
    rules = [":--"] * left + ["--:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (list(header), rules, *rows)) + "\n"


def number(value: float | None, digits: int = 1) -> str:
    """The value, or a dash where there is none."""
    return DASH if value is None or pd.isna(value) else f"{value:.{digits}f}"


def with_interval(row: pd.Series, name: str, digits: int = 1) -> str:
    """`52.1 [50.0, 54.2]` from columns NAME, NAME low and NAME high."""
    value, low, high = row[name], row[f"{name} low"], row[f"{name} high"]
    if pd.isna(value) or pd.isna(low):
        return number(value, digits)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def marked(values: pd.Series, texts: list[str]) -> list[str]:
    """The best value in bold and the second best underlined, as in the paper."""
    order = values.dropna().sort_values(ascending=False).index[:2]
    for index, form in zip(order, ("**{}**", "<u>{}</u>"), strict=False):
        at = values.index.get_loc(index)
        texts[at] = form.format(texts[at])
    return texts


# --- means over folds ------------------------------------------------------------------------------------


def mean_folds(evaluations: pd.DataFrame, shot: int, folds: Sequence[int]) -> list[int]:
    """The folds that a mean is over: those asked for, less those in which no class is left to score."""
    rows = evaluations[evaluations["shot"] == shot]
    empty = {f for f, part in rows.groupby("fold") if part["why"].notna().all()}
    return [f for f in folds if f not in empty]


def fold_table(
    evaluations: pd.DataFrame, samples: Samples, shot: int, folds: Sequence[int], value: str = "miou"
) -> pd.DataFrame:
    """Methods by folds, in percent: columns of `folds`, then mean, mean low, mean high.

    A cell is the mean of its runs (training and evaluation seeds). The mean is there only if every one of
    `mean_folds` has a number.
    """
    rows = evaluations[evaluations["shot"] == shot]
    table = rows.groupby(["method", "fold"], sort=False)[value].mean().unstack("fold")
    table = table.reindex(columns=list(folds)).astype(float)
    over = mean_folds(evaluations, shot, folds)
    table["mean"] = table[over].mean(axis=1, skipna=False) if over else np.nan
    for method in table.index:
        parts = [samples.get((method, shot, fold)) for fold in over]
        complete = (
            value == "miou" and pd.notna(table.at[method, "mean"]) and all(p is not None for p in parts)
        )
        low, high = interval(np.mean(parts, axis=0)) if complete else (np.nan, np.nan)
        table.loc[method, ["mean low", "mean high"]] = [low, high]
    return table


def panels(table: pd.DataFrame, samples: Samples, shot: int, folds: Sequence[int]) -> dict[str, pd.DataFrame]:
    """A `fold_table` as panels of a figure: title -> columns value, low, high by method; the mean comes last."""
    out = {}
    for fold in folds:
        known = {m: interval(samples[m, shot, fold]) for m in table.index if (m, shot, fold) in samples}
        ends = pd.DataFrame.from_dict(known, orient="index", columns=["low", "high"])
        out[f"Fold {fold}"] = ends.reindex(table.index).assign(value=table[fold])
    columns = {"mean": "value", "mean low": "low", "mean high": "high"}
    return out | ({"Mean": table[list(columns)].rename(columns=columns)} if len(folds) > 1 else {})


def difference(
    samples: Samples, ours: str, theirs: str, shot: int, folds: Sequence[int]
) -> tuple[float, float]:
    """95 % interval of the difference of two methods' means over folds, paired by episode; NaN where unknown."""
    parts = [(samples.get((ours, shot, f)), samples.get((theirs, shot, f))) for f in folds]
    if not parts or any(a is None or b is None for a, b in parts):
        return np.nan, np.nan
    return interval(np.mean([a - b for a, b in parts], axis=0))


def method_order(evaluations: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    """Trained methods as the params list them, then the baselines without training in their own order."""
    found = set(evaluations["method"])
    trained = set(evaluations.loc[evaluations["checkpoint"] != "none", "method"])
    baselines = [m for m in LABELS if m in found - trained] + sorted(found - trained - set(LABELS))
    return [m for m in methods if m in found] + baselines


# --- Table 1 ---------------------------------------------------------------------------------------------


def main_table(
    evaluations: pd.DataFrame, samples: Samples, run: dict[str, Any], comparable: bool
) -> pd.DataFrame:
    """Form of the paper's Table 1: a row a method, folds and mean as columns, 1-shot | 5-shot, mIoU in percent.

    Columns: backbone, method, training (trained | none | published), then for each shot `K-shot fold-F`,
    `K-shot mean`, `K-shot mean low`, `K-shot mean high`, `K-shot paper` (the paper's mean). Published rows are
    appended where the setting is comparable.
    """
    methods = method_order(evaluations, run["methods"])
    trained = set(evaluations.loc[evaluations["checkpoint"] != "none", "method"])
    backbone = evaluations["backbone"].iloc[0] if len(evaluations) else ""
    table = pd.DataFrame(
        {
            "backbone": backbone,
            "method": methods,
            "training": ["trained" if m in trained else "none" for m in methods],
        }
    )
    published = paper()["table1"].get(backbone, {}) if comparable else {}
    if published:
        rows = [{"backbone": backbone, "method": name, "training": "published"} for name in published]
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
    for shot in run["shots"]:
        cells = fold_table(evaluations, samples, shot, run["folds"])
        for column in cells:
            name = f"fold-{column}" if isinstance(column, int) else column
            table[f"{shot}-shot {name}"] = table["method"].map(cells[column]).astype(float)
        numbers = {m: published.get(n, {}).get(shot) for m, n in PUBLISHED.items()}
        table[f"{shot}-shot paper"] = (
            table["method"].map({m: v[-1] for m, v in numbers.items() if v}).astype(float)
        )
        for at, row in table[table["training"] == "published"].iterrows():
            values = published[row["method"]].get(shot, [])
            for fold, value in zip([0, 1, 2, 3, "mean"], values, strict=False):
                column = f"{shot}-shot fold-{fold}" if fold != "mean" else f"{shot}-shot mean"
                if column in table:
                    table.loc[at, column] = value
    return table


def main_markdown(
    table: pd.DataFrame, evaluations: pd.DataFrame, run: dict[str, Any], notes: list[str]
) -> str:
    """Table 1 as Markdown. notes: what `differences` found."""
    header, columns = ["Backbone", "Method", "Training"], []
    own = table["training"] != "published"
    single = len(run["shots"]) == 1
    for shot in run["shots"]:
        group = "" if single else f"{shot}-shot "
        for fold in run["folds"]:
            name = f"{shot}-shot fold-{fold}"
            header.append(f"{group}Fold-{fold}")
            texts = [number(v) for v in table[name]]
            columns.append(marked(table.loc[own, name], texts))
        over = mean_folds(evaluations, shot, run["folds"])
        which = "" if over == [0, 1, 2, 3] else f" of {', '.join(map(str, over)) or 'none'}"
        header += [f"{group}Mean{which} [95 %]", f"{group}paper"]
        name = f"{shot}-shot mean"
        columns.append(
            marked(table.loc[own, name], [with_interval(row, name) for _, row in table.iterrows()])
        )
        columns.append([number(v) for v in table[f"{shot}-shot paper"]])
    names = [
        f"{r.method} (paper)" if r.training == "published" else label(r.method) for r in table.itertuples()
    ]
    rows = zip(table["backbone"], names, table["training"], *columns, strict=True)
    shots = f", {run['shots'][0]}-shot" if single else ""
    return (
        f"# mIoU by fold{shots} (form of the paper's Table 1)\n\n"
        + markdown(header, rows, left=3)
        + "\nIn percent; **best** and <u>second best</u> of ours. Brackets: 95 % of bootstrap samples of the test "
        "episodes; they say nothing about other training seeds. Thresholds of the baselines without training were "
        "chosen on training classes.\n\n" + paper_note(notes)
    )


def paper_note(notes: list[str]) -> str:
    """Why the paper's numbers are or are not beside ours."""
    if not notes:
        return "The paper's numbers stand beside ours: data set, backbone and image side are the same.\n"
    return f"The paper's numbers are left out ({DASH}), for the setting is another: {'; '.join(notes)}.\n"


def nested(evaluations: pd.DataFrame, samples: Samples, run: dict[str, Any]) -> dict[str, Any]:
    """Numbers for `dvc metrics show`: {"i2r": {"1-shot": {"miou": {"fold0": ..., "mean": ...}, "fb_iou": ...}}}."""
    out: dict[str, Any] = {}
    for shot in run["shots"]:
        for value in ("miou", "fb_iou"):
            table = fold_table(evaluations, samples, shot, run["folds"], value)
            for method, row in table.iterrows():
                names = {f"fold{f}": row[f] for f in run["folds"]} | {"mean": row["mean"]}
                kept = {k: round(float(v), 2) for k, v in names.items() if pd.notna(v)}
                if kept:
                    out.setdefault(method, {}).setdefault(f"{shot}-shot", {})[value] = kept
    return out
