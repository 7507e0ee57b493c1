"""The report step: page, tables and figures of an experiment, from the files of finished jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from i2r.config.experiment import FORMS
from i2r.config.registry import find
from i2r.files import write_json, write_text
from i2r.pipeline.jobs import Job
from i2r.report import checklist, checkpoints, controls, cost, gallery, latex, page, strata, verdicts
from i2r.report.data_sets import data_sets
from i2r.report.forms.shown import Figure, Shown
from i2r.report.origin import asked
from i2r.report.results import METRICS, PER_CLASS, Results
from i2r.report.target import Target, labels
from i2r.report.text import Grid

FILES = ("table", "ablation", "priors")  # always written, even if no target has this form


def run(job: Job) -> dict[str, Any]:
    """Write the report, its tables and figures to `job.out`; returns mean mIoU by method (percent).

    The report names missing results, with the reason.
    """
    results, out = Results(job.params, job.inputs), job.out
    results.evaluations[METRICS].to_csv(out / "metrics.csv", index=False, float_format="%.4f")
    results.per_class[PER_CLASS].to_csv(out / "per_class.csv", index=False, float_format="%.4f")
    results.curves.to_csv(out / "curves.csv", index=False, float_format="%.6g")

    targets = [Target(name, results) for name in job.params["targets"]]
    shown = [(target, find(FORMS[target.form])(target)) for target in targets]
    chosen = checkpoints.table(targets)
    chosen.to_csv(out / "checkpoints.csv", index=False, float_format="%.4f")
    for target, made in shown:
        checkpoints.add(made, chosen, target)
        made.sentences += [f"{id} is not possible here: {why}." for id, why in target.impossible.items()]
    for name in dict.fromkeys([*FILES, *(made.file for _, made in shown)]):
        write_tables(out, name, [(target, made) for target, made in shown if made.file == name])

    judged = verdicts.write(out, targets)
    write_grids(out, "claims", "Claims of the paper", [*judged, verdicts.audit_grid()])
    numbers = nested(results)
    write_json(out / "metrics.json", numbers)
    write_text(out / "numbers.tex", latex.macros(targets))

    names = labels(results)
    compared, own = gallery.episodes(results, names)
    curves = gallery.curves(results, names)
    sets = data_sets(results)
    of_targets = (made.figures for _, made in shown)
    of_sets = (found.figures for found in sets)
    draw(out / "figures", chain(*of_targets, curves, compared, *own.values(), *of_sets))
    controlled = controls.table(results)
    controlled.to_csv(out / "controls.csv", index=False, float_format="%.4f")
    by_kind = strata.table(results, targets)
    by_kind.to_csv(out / "strata.csv", index=False, float_format="%.4f")
    kinds = strata.grids(by_kind, targets)
    costs = cost.table(results)
    costs.to_csv(out / "cost.csv", index=False, float_format="%.6g")
    write_grids(out, "controls", "Is the support used?", controls.grids(controlled, names))
    write_grids(out, "strata", "By kind of episode", kinds)
    write_grids(out, "cost", "Cost", cost.grids(costs))
    pictures = (curves, compared, own)
    commands = {name: asked(name, job.options) for name in job.params["targets"]}
    commands[""] = asked(job.label, job.options)
    content = page.content(results, judged, shown, controlled, kinds, costs, pictures, sets, names, commands)
    page.write(out, content)
    write_text(out / "checklist.md", markdown(checklist.TITLE, content["checklist"]))
    return {
        f"{method}/{shot}/{value}": mean
        for method, shots in numbers.items()
        for shot, values in shots.items()
        for value, cells in values.items()
        if (mean := cells.get("mean")) is not None
    }


def draw(folder: Path, figures: Iterable[Figure]) -> None:
    """Draw each figure to a PNG file with its name."""
    folder.mkdir(exist_ok=True)
    for figure in figures:
        figure.draw(folder / f"{figure.name}.png")


def markdown(title: str, grids: Sequence[Grid]) -> str:
    return f"# {title}\n\n" + "\n".join(grid.markdown() for grid in grids)


def write_grids(folder: Path, name: str, title: str, grids: Sequence[Grid]) -> None:
    """Write NAME.md and NAME.tex."""
    write_text(folder / f"{name}.md", markdown(title, grids))
    write_text(folder / f"{name}.tex", latex.document((title, grid) for grid in grids))


def write_tables(folder: Path, name: str, shown: Sequence[tuple[Target, Shown]]) -> None:
    """Write NAME.md, NAME.tex and NAME.csv for all targets of a form."""
    several = len(shown) > 1
    parts = [f"<!-- {target.name} -->\n" * several + made.markdown() for target, made in shown]
    text = "\n".join(parts) if parts else "No target of this experiment has this form.\n"
    write_text(folder / f"{name}.md", text)
    tables = ((made.title, grid) for _, made in shown for grid in made.grids)
    write_text(folder / f"{name}.tex", latex.document(tables))
    frames = [made.frame.assign(target=target.name) for target, made in shown]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["target"])
    table = table[["target", *(column for column in table.columns if column != "target")]]
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.4f")


def nested(results: Results) -> dict[str, Any]:
    """Numbers for `dvc metrics show`: {"i2r": {"1-shot": {"miou": {"fold0": ..., "mean": ...}, "fb_iou": ...}}}.

    Baselines are listed by name if they run on the networks of one method only, else as `baseline@method`.
    """
    table = results.evaluations
    plain = table["on"].nunique() <= 1
    out: dict[str, Any] = {}
    for (id, shot), rows in table.groupby(["id", "shot"], sort=False):
        for value in ("miou", "fb_iou"):
            cells = rows.groupby("fold")[value].mean().dropna()
            if len(cells):
                kept = {f"fold{fold}": round(float(number), 2) for fold, number in cells.items()}
                kept["mean"] = round(float(np.mean(cells)), 2)
                name = id.partition("@")[0] if plain else id
                out.setdefault(name, {}).setdefault(f"{shot}-shot", {})[value] = kept
    return out
