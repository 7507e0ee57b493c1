"""What the jobs of each target have cost, as they measured it (i2r/pipeline/usage.py)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from i2r.pipeline.steps import STEPS
from i2r.progress import duration
from i2r.report.finished import Finished
from i2r.report.results import Results
from i2r.report.text import Grid, number

ALL = "all"  # in column target: every job once, also those that several targets share; in column step: all steps
COLUMNS = [
    "target",
    "step",
    "jobs",
    "hours",
    "longest_hours",
    "cpu_hours",
    "gpu_hours",
    "memory_gb",
    "gpu_memory_gb",
]
COLUMNS += ["cpu_kwh", "gpu_kwh"]
# column of the table: (group and name on the page, digits; None: a time)
SHOWN = {
    "hours": (("time", "wall"), None),
    "longest_hours": (("time", "longest"), None),
    "cpu_hours": (("time", "CPU"), None),
    "gpu_hours": (("time", "GPU"), None),
    "memory_gb": (("peak memory, GB", "main"), 1),
    "gpu_memory_gb": (("peak memory, GB", "GPU"), 1),
    "cpu_kwh": (("energy, kWh", "CPU"), 3),
    "gpu_kwh": (("energy, kWh", "GPU"), 3),
}


def table(results: Results) -> pd.DataFrame:
    """One row for each target and step, and for all of them, with COLUMNS; NaN: a job of them did not measure it."""
    rows = []
    names = list(results.params["targets"])
    for target in [*names, ALL]:
        jobs = list(results.jobs.values()) if target == ALL else results.behind(_roles(results, target))
        for step in [*(name for name in STEPS if any(job.step == name for job in jobs)), ALL]:
            own = [job for job in jobs if step in (job.step, ALL)]
            rows.append({"target": target, "step": step, "jobs": len(own)} | _sums(own))
    return pd.DataFrame(rows, columns=COLUMNS)


def _roles(results: Results, target: str) -> list[str]:
    runs = [row for row in results.params["runs"] if row["target"] == target]
    baselines = [row for row in results.params["baselines"] if row["target"] == target]
    ends = [row[end] for row in runs for end in ("train", "evaluate", "controls") if row.get(end)]
    return [*ends, *(row["job"] for row in baselines)]


def _sums(jobs: Iterable[Finished]) -> dict[str, float]:
    names = [
        "seconds",
        "cpu_seconds",
        "gpu_seconds",
        "memory_mb",
        "gpu_memory_mb",
        "cpu_joules",
        "gpu_joules",
    ]
    used = pd.DataFrame([job.cost for job in jobs], columns=names).astype(float)
    without_gpu = used["gpu_seconds"] == 0
    used.loc[without_gpu, ["gpu_memory_mb", "gpu_joules"]] = 0.0
    sums = used.sum(skipna=False) if len(used) else used.sum()
    peaks = used.max()
    return {
        "hours": sums["seconds"] / 3600,
        "longest_hours": peaks["seconds"] / 3600,
        "cpu_hours": sums["cpu_seconds"] / 3600,
        "gpu_hours": sums["gpu_seconds"] / 3600,
        "memory_gb": peaks["memory_mb"] / 1024,
        "gpu_memory_gb": peaks["gpu_memory_mb"] / 1024,
        "cpu_kwh": sums["cpu_joules"] / 3.6e6,
        "gpu_kwh": sums["gpu_joules"] / 3.6e6,
    }


def grids(costs: pd.DataFrame) -> list[Grid]:
    """Costs by step, and by target if there are several."""
    steps = costs[costs["target"] == ALL]
    found = [_grid("Step", "step", steps)]
    targets = costs[costs["step"] == ALL]
    if len(targets) > 2:
        found.append(_grid("Target", "target", targets))
        found[-1].note = "Jobs that several targets share count for each of them, and once in the last row."
    whole = steps[steps["step"] == ALL].iloc[0]
    found[0].note = " ".join(
        [
            "Over all attempts of each job, interrupted ones included. Memory is that of a job's main process.",
            _energy_said(whole),
        ]
    )
    return found


def _energy_said(whole: pd.Series) -> str:
    """What the energy is, or why there is none."""
    if np.isnan(whole["cpu_kwh"]) and not whole["gpu_kwh"] > 0:
        return "Energy was not measured: not every job could read the counters of its processor (RAPL) or GPU (NVML)."
    return (
        "Energy is that of processors, by each job's share of their busy time, and of GPUs; a dash: not measured by "
        "every job."
    )


def _grid(header: str, column: str, costs: pd.DataFrame) -> Grid:
    """One row for each step or target; columns in which nothing was measured or used are left out."""
    shown = [name for name in SHOWN if (costs[name].fillna(0) > 0).any()]
    grid = Grid([("", header), ("", "jobs"), *(SHOWN[name][0] for name in shown)], [])
    for row in costs.to_dict("records"):
        if row[column] == ALL:
            grid.quiet.add(len(grid.rows))
        grid.rows.append([row[column], str(row["jobs"]), *(_cell(name, row[name]) for name in shown)])
    return grid


def _cell(name: str, value: float) -> str:
    digits = SHOWN[name][1]
    return duration(3600 * value) if digits is None and not np.isnan(value) else number(value, digits or 0)
