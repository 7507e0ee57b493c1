"""Jobs on disk as tracking sees them: what has finished, what runs, and their numbers by flat names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from i2r.files import read_json
from i2r.report.results import Finished, from_manifest, read_job, read_steps


def finished_jobs(results: Path) -> list[Finished]:
    """Every finished job of the store, inputs before what was made from them; the jobs of `track` are left out."""
    jobs = [read_job(path.parent) for path in sorted(results.glob("store/*/*/manifest.json"))]
    jobs = [job for job in jobs if job.step != "track"]
    return sorted(jobs, key=lambda job: (str(job.times["started"]), job.store))


def running_jobs(results: Path) -> list[Finished]:
    """Jobs with a state folder and a spec that have written steps; their folder is where these lie."""
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
    """All params that a job and what it was made from were made with, by step; folds share them."""
    found = {job.step: job.params}
    for key in job.inputs.values():
        if key in known:
            found |= made_with(known[key], known)
    return found


# --- small translations ------------------------------------------------------------------------------------


def milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("data.size", 97) for {"data": {"size": 97}}; lists stay one value."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, values


def metric_name(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name)


def numbers(values: dict[str, Any], start: str = "") -> dict[str, float]:
    """The numbers among (nested) values, by names such as `prior/ap`."""
    return {
        metric_name(start + name.replace(".", "/")): float(value)
        for name, value in flat(values)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def scores_of(job: Finished) -> dict[str, float]:
    """Metrics of an evaluation: mIoU and FB-IoU in percent, IoU by class, quality of priors; baselines' by name."""
    found: dict[str, float] = {}
    for baseline, scores in job.scores.items():
        start = f"{baseline}/" if baseline else ""
        plain = {k: scores.get(k) for k in ("miou", "fb_iou", "seconds_per_episode", "threshold")}
        found |= numbers(plain, start)
        found |= numbers({"iou": {c["name"]: c["iou"] for c in scores.get("classes", {}).values()}}, start)
        found |= numbers({"prior": scores.get("prior") or {}}, start)
        found |= numbers({"mask_ratio": dict(enumerate(scores.get("mask_ratio") or []))}, start)
    if job.step == "baselines":
        found |= numbers({"priors": job.json("scores.json").get("priors", {})})
    return found


def section(job: Finished, name: str, known: dict[str, Finished]) -> dict[str, Any]:
    """Section `name` of the params that a job was made with: its own, else that of what it was made from."""
    if name in job.params:
        return job.params[name]
    for key in job.inputs.values():
        if key in known and (found := section(known[key], name, known)):
            return found
    return {}


def dataset_name(job: Finished, known: dict[str, Finished]) -> str:
    """The source of generated data, or the name of the folder that the data set lies in; empty for a job without."""
    data = job.params.get("data", {})
    if "source" in data:
        return Path(job.data_root).name if job.data_root else str(data["source"])
    names = (dataset_name(known[key], known) for key in job.inputs.values() if key in known)
    return next((name for name in names if name), "")


def setting(job: Finished, known: dict[str, Finished]) -> dict[str, str]:
    """Data set and backbone of a job, empty where it has none."""
    backbone = section(job, "backbone", known).get("name", "")
    return {"dataset": dataset_name(job, known), "backbone": str(backbone)}


def steps_of(job: Finished, after: int) -> list[tuple[str, float, int, int]]:
    """(name, value, moment in ms, step) of what the job wrote down at each step above `after`.

    Moments add up from the seconds that its steps took.
    """
    metrics, moment, before = [], milliseconds(job.times["started"]), 0
    for row in read_steps(job.folder / "metrics.jsonl"):
        moment += int(1000 * row.get("seconds", 0) * (row["step"] - before))
        before = row["step"]
        if row["step"] > after:
            found = numbers({name: value for name, value in row.items() if name != "step"})
            metrics += [(name, value, moment, row["step"]) for name, value in found.items()]
    return metrics
