"""Finished jobs as pandas frames: what they scored, how they learned, and what is missing and why.

Only files are read (manifest.json, scores.json, episodes.csv, metrics.jsonl). A number that is not there stays
missing (NaN) with a reason beside it; it never becomes 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

METRICS = [
    "dataset",
    "backbone",
    "method",
    "shot",
    "fold",
    "seed",
    "checkpoint",
    "miou",
    "fb_iou",
    "episodes",
]
METRICS += ["interval_low", "interval_high", "eval_seed", "key", "train_key", "why"]
PER_CLASS = [
    "dataset",
    "backbone",
    "method",
    "shot",
    "fold",
    "seed",
    "eval_seed",
    "class",
    "name",
    "iou",
    "queries",
]
PER_CLASS += ["key", "why"]
SCORED = ("evaluate", "baselines")
COUNTS = ("fold", "shot", "seed", "eval_seed", "episodes", "class", "queries", "step")


class ResultsError(ValueError):
    """Files of a job that cannot be read; the message names the file."""


@dataclass(frozen=True)
class Finished:
    """A finished job: the folder of its products and what its manifest says."""

    folder: Path
    step: str
    key: str
    name: str
    args: dict[str, Any]
    params: dict[str, Any]
    inputs: dict[str, str]  # role: key
    products: dict[str, str]  # file: sha256
    metrics: dict[str, Any]
    environment: dict[str, Any]
    times: dict[str, Any]
    store: str  # where the products lie for good, below results/
    stage: str
    data_root: str | None
    peak_memory_mb: int | None

    def json(self, file: str) -> Any:
        """A JSON product.

        Raises:
            ResultsError: it is missing or broken.
        """
        try:
            return json.loads((self.folder / file).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ResultsError(f"{self.folder / file}: {error}") from None


def from_manifest(folder: Path, manifest: dict[str, Any]) -> Finished:
    """A job by its manifest; KeyError where an entry is missing."""
    spec = manifest["spec"]
    return Finished(
        folder=folder,
        step=spec["step"],
        key=spec["key"],
        name=spec["name"],
        args=spec["args"],
        params=spec["params"],
        inputs={role: Path(place).name for role, place in spec["inputs"].items()},
        products=manifest["products"],
        metrics=manifest["metrics"] or {},
        environment=manifest["environment"],
        times=manifest["times"],
        store=spec["folder"],
        stage=spec["stage"],
        data_root=spec["data_root"],
        peak_memory_mb=manifest.get("peak_memory_mb"),
    )


def read_job(folder: Path, name: str = "manifest.json") -> Finished:
    """The finished job whose manifest lies in `folder`.

    Raises:
        ResultsError: there is no manifest (the job has not finished), or it lacks an entry.
    """
    path = folder / name
    if not path.is_file():
        raise ResultsError(f"{folder}: no {name}, so the job has not finished")
    try:
        return from_manifest(folder, json.loads(path.read_text()))
    except (json.JSONDecodeError, KeyError) as error:
        raise ResultsError(f"{path}: not a manifest: {error!r}") from None


def read_jobs(folders: Iterable[Path]) -> tuple[list[Finished], list[str]]:
    """All jobs that have finished, and a sentence for each that has not."""
    jobs, gaps = [], []
    for folder in folders:
        try:
            jobs.append(read_job(folder))
        except ResultsError as error:
            gaps.append(str(error))
    return jobs, gaps


def section(job: Finished, name: str, known: dict[str, Finished]) -> dict[str, Any]:
    """Section `name` of the params that a job was made with: its own, else that of what it was made from."""
    if name in job.params:
        return job.params[name]
    for key in job.inputs.values():
        if key in known and (found := section(known[key], name, known)):
            return found
    return {}


def dataset_name(job: Finished, known: dict[str, Finished]) -> str:
    """`shapes`, or the name of the folder that a voc data set lies in; empty for a job without data."""
    data = job.params.get("data", {})
    if data.get("source") == "voc" and job.data_root:
        return Path(job.data_root).name
    if "source" in data:
        return str(data["source"])
    names = (dataset_name(known[key], known) for key in job.inputs.values() if key in known)
    return next((name for name in names if name), "")


def setting(job: Finished, known: dict[str, Finished]) -> dict[str, str]:
    """Columns `dataset` and `backbone` of a job."""
    backbone = section(job, "backbone", known).get("name", "")
    return {"dataset": dataset_name(job, known), "backbone": str(backbone)}


def scored_methods(job: Finished) -> Iterator[tuple[str, dict[str, Any]]]:
    """(method, scores) of an evaluation, or of each baseline in a baselines job."""
    scores = job.json("scores.json")
    if job.step == "evaluate":
        yield job.args["method"], scores
    else:
        yield from scores.get("methods", {}).items()  # none where no class is left in the fold


def place(job: Finished, method: str) -> dict[str, Any]:
    """Columns that say what was evaluated; a baseline without training has no seed."""
    args = job.args
    return {
        "method": method,
        "shot": args["shot"],
        "fold": args["fold"],
        "seed": args.get("seed"),
        "eval_seed": args.get("eval_seed"),
    }


def frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Rows with these columns; whole numbers stay whole where some are missing."""
    table = pd.DataFrame(rows, columns=columns)
    for column in set(COUNTS) & set(columns):
        table[column] = table[column].astype("Int64")
    return table


def evaluations(jobs: list[Finished]) -> pd.DataFrame:
    """One row an evaluation, columns METRICS; miou, fb_iou and the 95 % interval in percent.

    `why` says in a sentence why a row has no number.
    """
    known, rows = {job.key: job for job in jobs}, []
    for job in (job for job in jobs if job.step in SCORED):
        for method, scores in scored_methods(job):
            low, high = scores.get("interval") or (None, None)
            rows.append(
                setting(job, known)
                | place(job, method)
                | {
                    "checkpoint": "last" if job.step == "evaluate" else "none",
                    "miou": scores.get("miou"),
                    "fb_iou": scores.get("fb_iou"),
                    "episodes": scores.get("episodes"),
                    "interval_low": low,
                    "interval_high": high,
                    "key": job.key,
                    "train_key": job.inputs.get("train"),
                    "why": scores.get("why"),
                }
            )
    table = frame(rows, METRICS)
    numbers = ["miou", "fb_iou", "interval_low", "interval_high"]
    table[numbers] = table[numbers].astype(float)
    return table.sort_values(["shot", "method", "seed", "fold", "eval_seed"], ignore_index=True)


def per_class(jobs: list[Finished]) -> pd.DataFrame:
    """One row a class of an evaluation, columns PER_CLASS; iou in percent, excluded classes with a reason."""
    known, rows = {job.key: job for job in jobs}, []
    for job in (job for job in jobs if job.step in SCORED):
        for method, scores in scored_methods(job):
            start = setting(job, known) | place(job, method) | {"key": job.key}
            for number, values in scores.get("classes", {}).items():
                kept = {k: values[k] for k in ("name", "iou", "queries")}
                kept["why"] = None if values["queries"] else "no episode has it"
                rows.append(start | {"class": int(number)} | kept)
            for left_out in scores.get("excluded", []):
                why = f"excluded: only {left_out['images']} test image(s)"
                rows.append(start | {"class": int(left_out["class"]), "name": left_out["name"], "why": why})
    table = frame(rows, PER_CLASS)
    table["iou"] = table["iou"].astype(float)
    return table.sort_values(["shot", "method", "seed", "fold", "eval_seed", "class"], ignore_index=True)


def missing(jobs: list[Finished], params: dict[str, Any]) -> list[str]:
    """A sentence for every evaluation that has no number or that the params ask for and no job has made."""
    gaps = []
    for job in (job for job in jobs if job.step in SCORED):
        if why := job.json("scores.json").get("why"):
            gaps.append(f"{job.step}/{job.name}: {why}")
    run, ablate = params.get("run", {}), params.get("ablate", {})
    asked = {
        (m, s, f, d) for m in run["methods"] for s in run["shots"] for f in run["folds"] for d in run["seeds"]
    }
    asked |= {
        (m, s, f, d)
        for m in ablate.get("methods", [])
        for s in run["shots"]
        for f in ablate["folds"]
        for d in ablate["seeds"]
    }
    made = {
        tuple(job.args[k] for k in ("method", "shot", "fold", "seed"))
        for job in jobs
        if job.step == "evaluate"
    }
    gaps += [f"{m}, {s}-shot, fold {f}, seed {d}: not evaluated" for m, s, f, d in sorted(asked - made)]
    based = {(job.args["shot"], job.args["fold"]) for job in jobs if job.step == "baselines"}
    wanted = {(s, f) for s in run["shots"] for f in run["folds"]}
    return gaps + [f"baselines, {s}-shot, fold {f}: not evaluated" for s, f in sorted(wanted - based)]


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that is still being written is left out."""
    lines = path.read_text().splitlines() if path.is_file() else []
    steps = []
    for number, line in enumerate(lines, 1):
        try:
            steps.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise ResultsError(f"{path}: line {number} is not JSON") from None
    return steps


def curves(jobs: list[Finished]) -> pd.DataFrame:
    """Every step that a training wrote down: method, shot, fold, seed, step, loss and its parts, key."""
    tables = []
    for job in (job for job in jobs if job.step == "train"):
        steps = pd.DataFrame(read_steps(job.folder / "metrics.jsonl"))
        if len(steps):
            args = {k: job.args.get(k) for k in ("method", "shot", "fold", "seed")}
            tables.append(steps.assign(**args, key=job.key))
    start = ["method", "shot", "fold", "seed", "step", "loss"]
    if not tables:
        return pd.DataFrame(columns=[*start, "key"])
    table = pd.concat(tables, ignore_index=True)
    return table[start + [c for c in table.columns if c not in start]]


def priors(jobs: list[Finished]) -> pd.DataFrame:
    """Quality of each prior map: prior, shot, fold, eval_seed, bce (nats a pixel), ap and iou_best (percent)."""
    rows = []
    for job in (job for job in jobs if job.step == "baselines"):
        for prior, values in job.json("scores.json").get("priors", {}).items():
            at = {k: job.args.get(k) for k in ("shot", "fold", "eval_seed")}
            rows.append(
                {"prior": prior}
                | at
                | {k: values.get(k) for k in ("bce", "ap", "iou_best", "threshold_best")}
            )
    measures = ["bce", "ap", "iou_best", "threshold_best"]
    table = frame(rows, ["prior", "shot", "fold", "eval_seed", *measures])
    return table.astype(dict.fromkeys(measures, float))


def episodes(jobs: list[Finished]) -> pd.DataFrame:
    """Every scored episode: method, shot, fold, seed, eval_seed, index, class and the four pixel counts."""
    tables = []
    for job in (job for job in jobs if job.step in SCORED):
        path = job.folder / "episodes.csv"
        if not path.is_file():
            continue  # a fold without classes has none; `evaluations` holds the reason
        table = pd.read_csv(path, usecols=lambda c: c not in ("query", "supports"))
        if table.empty:
            continue
        where = place(job, job.args.get("method", ""))
        if job.step == "baselines":
            where.pop("method")
        tables.append(table.assign(**where))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def resample(table: pd.DataFrame, resamplings: int, seed: list[int]) -> np.ndarray:
    """mIoU (percent) of `resamplings` bootstrap samples of one run's episodes, (resamplings,).

    Episodes are drawn with replacement and the sums of every class computed anew; a class that a sample lacks is
    left out of that sample's mean. The same seed draws the same episodes for every method, so that differences of
    two methods on the same episodes are paired.
    """
    count = len(table)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamplings)
    table = table.sort_values("index")
    own = pd.get_dummies(table["class"]).to_numpy(float)  # (E, C)
    inter = drawn @ (own * table["inter_fg"].to_numpy(float)[:, None])  # (R, C)
    union = drawn @ (own * table["union_fg"].to_numpy(float)[:, None])
    iou = np.divide(inter, union, out=np.full_like(inter, np.nan), where=union > 0)
    return 100 * np.nanmean(iou, axis=1)


def resampled_means(table: pd.DataFrame, resamplings: int) -> dict[tuple[str, int, int], np.ndarray]:
    """(method, shot, fold) -> bootstrap samples of its mIoU in percent (resamplings,), mean of its runs.

    table: as from `episodes`. Their mean over folds, and differences of two methods, have their intervals from
    these samples (2.5 % to 97.5 %). They speak of the choice of test episodes, not of training seeds.
    """
    runs: dict[tuple[str, int, int], list[np.ndarray]] = {}
    if table.empty:
        return {}
    for (method, shot, fold, _seed, eval_seed), run in table.groupby(
        ["method", "shot", "fold", "seed", "eval_seed"], dropna=False
    ):
        drawn = resample(run, resamplings, [int(fold), int(shot), int(eval_seed)])
        runs.setdefault((method, int(shot), int(fold)), []).append(drawn)
    return {place: np.mean(samples, axis=0) for place, samples in runs.items()}


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap samples."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)
