"""How each number was made: the values of each method, its jobs with keys and commands, cost and environment."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from i2r.progress import duration
from i2r.report.finished import Finished
from i2r.report.forms.shown import flat, said
from i2r.report.results import Results
from i2r.report.text import Grid


def asked(target: str, options: Sequence[str]) -> str:
    """The command that makes a target or a stage with the params of this run."""
    return shlex.join(["snakemake", target, *options])


def command(job: Finished) -> str:
    """The command that runs the job."""
    return f"i2r run {job.step} --spec results/specs/{job.step}/{job.key}.json"


def jobs_of(results: Results, method: str) -> list[Finished]:
    """The jobs behind a method's numbers, inputs first."""
    runs = [row for row in results.params["runs"] if row["method"] == method]
    roles = [row[end] for row in runs for end in ("train", "evaluate", "controls") if row[end]]
    roles += [row["job"] for row in results.params["baselines"] if row["method"] == method]
    return results.behind(roles)


def values_of(results: Results, method: str) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """For each section of a method: (name, value, whether it differs from the first method's) of every value."""
    first = next(iter(results.methods.values()))["params"]
    found = []
    for section, values in results.methods[method]["params"].items():
        other = flat(first[section])
        rows = [(name, said(value), other.get(name) != value) for name, value in flat(values).items()]
        found.append((section, rows))
    return found


def methods(results: Results, labels: dict[str, str]) -> list[dict[str, Any]]:
    """One entry for each method, for the page."""
    return [
        {
            "name": name,
            "label": labels[name],
            "reading": method["reading"],
            "values": values_of(results, name),
            "jobs": jobs_grid(jobs_of(results, name)),
        }
        for name, method in results.methods.items()
    ]


def jobs_grid(jobs: Iterable[Finished]) -> Grid:
    """Jobs with the command of each."""
    grid = Grid([("", name) for name in ("Step", "Job", "Key", "Command", "Time")], [], words=4)
    for job in jobs:
        time = duration(job.cost["seconds"])
        grid.rows.append([job.step, job.label, f"`{job.key}`", f"`{command(job)}`", time])
    return grid


def environment(jobs: Iterable[Finished]) -> Grid:
    """The environment of the jobs, with all values if jobs differ."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        for name, value in job.environment.items():
            text = "unknown" if value is None else said(value)
            if text not in found.setdefault(name, []):
                found[name].append(text)
    rows = [[name.replace("_", " "), ", ".join(values)] for name, values in found.items()]
    return Grid([("", "What"), ("", "Value")], rows, words=2)
