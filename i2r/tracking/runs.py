"""Jobs on disk for tracking: finished and running ones, and their numbers by flat names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from i2r.files import read_json
from i2r.pipeline.steps import STEPS
from i2r.report.finished import BY_YARDSTICK, Finished, from_manifest, read_job, read_steps

# Group of the metrics with the scores on every grid, and without test-time augmentation: `yardsticks/miou_bam`.
YARDSTICKS = "yardsticks"


def finished_jobs(results: Path) -> list[Finished]:
    """All finished jobs of the store without those of the step `track`, in order of their start, inputs first."""
    order = list(STEPS)
    jobs = [read_job(path.parent) for path in sorted(results.glob("store/*/*/manifest.json"))]
    jobs = [job for job in jobs if job.step != "track"]
    return sorted(jobs, key=lambda job: (str(job.times["started"]), order.index(job.step), job.store))


def running_jobs(results: Path) -> list[Finished]:
    """Jobs with a state folder and a spec that have logged steps; `folder` is the folder of the log."""
    jobs = []
    specs = {path.stem: path for path in results.glob("specs/*/*.json")}
    for path in sorted(results.glob("state/*/out/metrics.jsonl")):
        key = path.parent.parent.name
        if key in specs:
            times = {"started": datetime.fromtimestamp(path.stat().st_ctime).astimezone().isoformat()}
            manifest = {
                "spec": read_json(specs[key]),
                "products": {},
                "metrics": {},
                "environment": {},
                "times": times,
            }
            jobs.append(from_manifest(path.parent, manifest))
    return jobs


def made_with(job: Finished, known: dict[str, Finished]) -> dict[str, Any]:
    """The params of a job and of all its inputs, by step; they are the same in all folds."""
    found = {job.step: job.params}
    for key in job.inputs.values():
        if key in known:
            found |= made_with(known[key], known)
    return found


# --- conversions -------------------------------------------------------------------------------------------


def milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("data.size", 97) for {"data": {"size": 97}}; a list is one value."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, values


def scored(name: str, miou: float | None) -> str:
    """`43.6 NAME`: MLflow's list of runs shows names, but no metric unless it is asked to."""
    return name if miou is None else f"{miou:.1f} {name}"


def metric_name(name: str) -> str:
    """A name with characters that MLflow allows."""
    return re.sub(r"[^\w\-. /]", "_", name)


def numbers(values: dict[str, Any], start: str = "") -> dict[str, float]:
    """The finite numbers among nested values, by names such as `prior/ap`."""
    return {
        metric_name(start + name.replace(".", "/")): float(value)
        for name, value in flat(values)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def scores_of(job: Finished) -> dict[str, float]:
    """Metrics of an evaluation: mIoU and FB-IoU in percent, the same by yardstick, IoU by class, quality of priors; for
    baselines by name, and without the yardsticks."""
    found: dict[str, float] = {}
    for baseline, scores in job.scores.items():
        start = f"{baseline}/" if baseline else ""
        plain = {k: scores.get(k) for k in ("miou", "fb_iou", "seconds_per_episode", "threshold")}
        found |= numbers(plain, start)
        found |= numbers({"iou": {c["name"]: c["iou"] for c in scores.get("classes", {}).values()}}, start)
        found |= numbers({"prior": scores.get("prior") or {}}, start)
        found |= numbers({"mask_ratio": dict(enumerate(scores.get("mask_ratio") or [], 1))}, start)
    if job.step == "evaluate":
        found |= numbers({YARDSTICKS: {name: job.scores[""].get(name) for name in BY_YARDSTICK}})
    if job.step == "baselines":
        found |= numbers({"priors": job.json("scores.json").get("priors", {})})
    return found


def section(job: Finished, name: str, known: dict[str, Finished]) -> dict[str, Any]:
    """Section `name` of the params of a job, or else of its inputs."""
    if name in job.params:
        return job.params[name]
    for key in job.inputs.values():
        if key in known and (found := section(known[key], name, known)):
            return found
    return {}


def dataset_name(job: Finished, known: dict[str, Finished]) -> str:
    """The source of generated data, or the name of the data set's folder; empty for a job without a data set."""
    data = job.params.get("data", {})
    if "source" in data:
        return Path(job.data_root).name if job.data_root else str(data["source"])
    names = (dataset_name(known[key], known) for key in job.inputs.values() if key in known)
    return next((name for name in names if name), "")


def setting(job: Finished, known: dict[str, Finished]) -> dict[str, str]:
    """Data set and backbone of a job; empty strings if it has none."""
    backbone = section(job, "backbone", known).get("name", "")
    return {"dataset": dataset_name(job, known), "backbone": str(backbone)}


def steps_of(job: Finished, after: int) -> list[tuple[str, float, int, int]]:
    """(name, value, time in ms, step) of everything that the job logged after step `after`.

    Times are computed from the durations of the steps.
    """
    metrics, moment, before = [], milliseconds(job.times["started"]), 0
    for row in read_steps(job.folder / "metrics.jsonl"):
        moment += int(1000 * row.get("seconds", 0) * (row["step"] - before))
        before = row["step"]
        if row["step"] > after:
            found = numbers({name: value for name, value in row.items() if name != "step"})
            metrics += [(name, value, moment, row["step"]) for name, value in found.items()]
    return metrics
