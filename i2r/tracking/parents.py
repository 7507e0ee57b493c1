"""What stands in the parent run of a configuration: params, means over folds, links, and what the reports say of it."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, RunTag

from i2r.files import canonical
from i2r.report.finished import BY_YARDSTICK, Finished
from i2r.tracking.importer import NOTE, Importer
from i2r.tracking.runs import YARDSTICKS, flat, made_with, metric_name, milliseconds, scored

NOTE_LENGTH = 8000  # MLflow's limit
WRITTEN = "i2r.written"  # digest of VERSION and the keys of what a parent shows
VERSION = 2  # of what is written: older parents are written again
SCORED = ("evaluate", "baselines")
SCORES = ("miou", "fb_iou")
TABLES = ("metrics.csv", "per_class.csv")  # of a report, with a row for each fold and seed of each method


def write(to: Importer) -> None:
    """Write every parent of which evaluations, or reports that show them, have come or changed."""
    scored: dict[str, list[Finished]] = {}  # by run id of the parent
    for job in to.jobs:
        if job.step in SCORED:
            scored.setdefault(to.runs[job.key].data.tags["mlflow.parentRunId"], []).append(job)
    tags = {run.info.run_id: run.data.tags for run in to.runs.values()}
    reports = {job.params["experiment"]: job for job in to.jobs if job.step == "report"}
    for parent, every in scored.items():
        keys = {job.key for job in every}
        shown = [report for report in reports.values() if keys & set(report.inputs.values())]
        content = canonical([VERSION, sorted(keys), [report.key for report in shown]])
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        if tags.get(parent, {}).get(WRITTEN) == digest:
            continue
        latest = max(every, key=lambda job: str(job.times["ended"]))
        group = canonical(made_with(latest, to.known))
        own = [job for job in every if canonical(made_with(job, to.known)) == group]
        said = [line for report in shown for line in log_report(to, parent, own, report)]
        to.log_dataset(latest, parent)
        to.log_params(parent, settings(to, latest))
        name = to.configuration(latest)[1]
        log_means(to, parent, name, own, [*folds_table(to, own), *said])
        to.client.set_tag(parent, WRITTEN, digest)


def settings(to: Importer, job: Finished) -> dict[str, Any]:
    """All params of the training that a job evaluates and of what it was trained on, or of a baselines job."""
    trained = to.known.get(job.inputs.get("train", ""), job)
    found = {name: trained.args[name] for name in ("shot", "seed") if name in trained.args}
    for params in made_with(trained, to.known).values():
        found |= dict(flat(params))
    return found


def log_means(to: Importer, parent: str, name: str, own: list[Finished], note: list[str]) -> None:
    """Log means over folds, the value of each fold, and the note, as far as they have changed."""
    values: dict[str, dict[int, dict[int, float]]] = {}  # metric -> fold -> evaluation seed -> value
    for job in own:
        for baseline, scores in job.scores.items():
            named = {f"{baseline}/{score}" if baseline else score: score for score in SCORES}
            named |= {} if baseline else {f"{YARDSTICKS}/{score}": score for score in BY_YARDSTICK}
            for metric, score in named.items():
                if scores.get(score) is not None:
                    cells = values.setdefault(metric_name(metric), {}).setdefault(job.args["fold"], {})
                    cells[job.args["eval_seed"]] = scores[score]  # the latest one, if the code has changed
    found = {}
    for score, folds in values.items():
        means = {fold: sum(v.values()) / len(v) for fold, v in folds.items()}
        found[score] = sum(means.values()) / len(means)
        if "/" not in score:
            found |= {f"{score}_fold{fold}": value for fold, value in means.items()}
    data = to.client.get_run(parent).data
    end = max(milliseconds(job.times["ended"]) for job in own)
    metrics = [Metric(n, v, end, 0) for n, v in found.items() if data.metrics.get(n) != v]
    tags = {
        "folds": ", ".join(map(str, sorted({job.args["fold"] for job in own}))),
        NOTE: shortened(note),
    }
    changed = [RunTag(tag, text) for tag, text in tags.items() if data.tags.get(tag) != text]
    if metrics or changed:
        to.client.log_batch(parent, metrics=metrics, tags=changed)
        to.client.update_run(parent, name=scored(name, found.get("miou")))
        to.client.set_terminated(parent, "FINISHED", end)


def folds_table(to: Importer, own: list[Finished]) -> list[str]:
    """Lines of a table of the evaluations, with links to their runs and to those of their trainings."""
    lines = [
        "| fold | mIoU | FB-IoU | evaluation | training | episodes |",
        "| --- | ---: | ---: | --- | --- | --- |",
    ]
    for job in sorted(own, key=lambda job: (job.args["fold"], job.args["eval_seed"])):
        if job.step == "evaluate":
            miou, fb_iou = (job.scores[""].get(name) for name in SCORES)
            shown = [f"{value:.1f}" if value is not None else "" for value in (miou, fb_iou)]
            links = [to.link(key) for key in (job.key, job.inputs.get("train"), job.inputs.get("episodes"))]
            lines.append(f"| {' | '.join([str(job.args['fold']), *shown, *links])} |")
    return lines if len(lines) > 2 else []


def log_report(to: Importer, parent: str, own: list[Finished], report: Finished) -> list[str]:
    """Log what a report shows of a parent; returns lines with its sentences that name the parent's methods.

    The parent gets the report's texts whole, of its tables of numbers the rows of its own evaluations, and of its
    figures those of its targets and of its methods' episodes.
    """
    from i2r.report.target import BASELINES  # not at the top: it loads matplotlib

    keys = {job.key for job in own}
    rows = {
        file: list(csv.reader((report.folder / file).open(encoding="utf-8", newline=""))) for file in TABLES
    }
    header, *cells = rows["metrics.csv"]
    mine = [dict(zip(header, row, strict=True)) for row in cells if keys & set(row)]
    methods = list(dict.fromkeys(row["method"] for row in mine))
    texts = [file for file in report.products if file.endswith(".md")]
    shown = "|".join(
        map(re.escape, [*report.params["targets"], *(f"episodes-{method}" for method in methods)])
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in texts:
            shutil.copy(report.folder / file, folder)
        for file, (first, *rest) in rows.items():
            with (folder / file).open("w", encoding="utf-8", newline="") as out:
                csv.writer(out).writerows([first, *(row for row in rest if keys & set(row))])
        for figure in sorted((report.folder / "figures").glob("*.png")):
            if re.match(rf"({shown})(-|$)", figure.stem):
                shutil.copy(figure, folder)
        to.client.log_artifacts(parent, str(folder), f"report {report.params['experiment']}")
    known = {name: method["label"] for name, method in report.params["methods"].items()}
    labels = [known.get(name) or BASELINES.get(name, name) for name in methods]
    said = [
        line for file in texts for line in named((report.folder / file).read_text(encoding="utf-8"), labels)
    ]
    return ["", f"## {to.link(report.key)}", *said]


def named(text: str, labels: list[str]) -> list[str]:
    """Of a Markdown text the rows of tables that name a method, below their headings, and the sentences that begin so.

    A row names a method if a cell, or one side of a difference in it, is the method's label.
    """
    if not labels:
        return []
    label = "|".join(map(re.escape, labels))
    row = re.compile(rf"(\||−)\s*(\*\*|<u>)?({label})(\*\*|</u>)?\s*(\||−)")
    found, heading = [], ""
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip().splitlines()
        if lines and lines[0].startswith("|"):
            rows = [line for line in lines[2:] if row.search(line)]
            found += ["", heading, "", *lines[:2], *rows] if rows else []
        elif lines and re.match(r"#+ |\*\*[^*]+\*\*$", lines[-1]):
            heading = f"**{lines[-1].strip('#* ')}**"
        else:
            found += [line for line in lines if re.match(rf"\*\*({label})\*\*", line)]
    return found


def shortened(lines: list[str]) -> str:
    """The lines as one text, without the last ones if it is too long for MLflow."""
    kept = list(lines)
    while len("\n".join(kept)) > NOTE_LENGTH:
        kept.pop()
    return "\n".join(kept).strip()
