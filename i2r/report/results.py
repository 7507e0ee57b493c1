"""The numbers of a report as pandas frames: scores, loss curves, and what is missing and why.

A missing number is NaN with a reason, never 0. The runs in the report's params say which methods a number belongs to,
because methods can share jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from i2r.metrics.statistics import Samples, mean_samples
from i2r.report.finished import BY_YARDSTICK, SCORES, Finished, read_jobs, read_steps

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
METRICS += ["miou_low", "miou_high", "fb_iou_low", "fb_iou_high", "eval_seed", "reading", "on"]
METRICS += ["vanished_queries", "miou_without_vanished", "scoring", *BY_YARDSTICK]
METRICS += ["key", "train_key", "episodes_key", "why"]
PER_CLASS = ["dataset", "backbone", "method", "shot", "fold", "seed", "eval_seed", "class", "name", "iou"]
PER_CLASS += ["queries", "reading", "on", "key", "why"]
ORDER = ["dataset", "shot", "id", "seed", "fold", "eval_seed"]
PRIOR_MEASURES = ["bce", "bce_calibrated", "bce_background", "ap", "iou_best", "threshold_best"]
COUNTS = ("fold", "shot", "seed", "eval_seed", "episodes", "class", "queries", "vanished_queries")
SCORED = ("evaluate", "baselines")


# --- which numbers there are ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """The scores of one evaluation of a method, or of one baseline on a method's frozen networks.

    Attributes:
        id: the method's name, or `baseline@method`.
        baseline: empty for a method.
        row: the entry of `runs` or `baselines` in the report's params.
        scores: its entry in scores.json; {} in a fold without classes.
    """

    id: str
    baseline: str
    row: dict[str, Any]
    job: Finished
    scores: dict[str, Any]

    @property
    def place(self) -> dict[str, Any]:
        """Shot, fold, training seed (None without training) and evaluation seed."""
        return {name: self.row.get(name) for name in ("shot", "fold", "seed", "eval_seed")}


def dataset_of(method: Mapping[str, Any]) -> str:
    """The name of the data set of a method, given by its entry in the report's params."""
    data = method["params"]["data"]
    return data.get("name") or data["source"]


class Results:
    """The jobs of a report and its params.

    Attributes:
        jobs: role -> finished job.
        gaps: a sentence for each job that has not finished.
    """

    def __init__(self, params: dict[str, Any], folders: Mapping[str, Path]) -> None:
        self.params = params
        self.jobs, self.gaps = read_jobs(folders)
        self.known = {job.key: job for job in self.jobs.values()}
        self.methods: dict[str, dict[str, Any]] = params["methods"]
        self._samples: dict[tuple[str, str, str], Samples] = {}

    def behind(self, roles: Iterable[str]) -> list[Finished]:
        """The jobs with these roles and all that they were made from, inputs first."""
        needed: set[str] = set()
        todo = [self.jobs[role].key for role in roles if role in self.jobs]
        while todo:
            key = todo.pop()
            if key in self.known and key not in needed:
                needed.add(key)
                todo += self.known[key].inputs.values()
        return [job for job in self.jobs.values() if job.key in needed]

    @cached_property
    def scored(self) -> list[Scored]:
        """All scores; a run that several targets show is included once."""
        found: dict[tuple, Scored] = {}
        for item in (*self._evaluated(), *self._baselines()):
            found.setdefault((item.id, *item.place.values()), item)
        return list(found.values())

    def _evaluated(self) -> Iterator[Scored]:
        for row in self.params["runs"]:
            if job := self.jobs.get(row["evaluate"]):
                yield Scored(row["method"], "", row, job, job.scores[""])

    def _baselines(self) -> Iterator[Scored]:
        for row in self.params["baselines"]:
            if job := self.jobs.get(row["job"]):
                for name, scores in job.scores.items():
                    yield Scored(f"{name}@{row['method']}", name, row, job, scores)

    def samples(self, item: Scored, measure: str = "miou") -> Samples | None:
        """Bootstrap samples over query images of mIoU or FB-IoU (percent), also on a yardstick (BY_YARDSTICK), or of
        the mean of another column of episodes.csv; None if nothing was scored. They are cached by job."""
        score, yardstick = BY_YARDSTICK.get(measure, (measure, ""))
        if item.scores.get(measure if yardstick else "miou") is None:
            return None
        if yardstick == self.scoring(item):
            return self.samples(item, score)
        at = item.job.key, item.baseline, measure
        if at not in self._samples:
            table, count = item.job.episodes_of(item.baseline), self.params["report"]["bootstrap"]
            if yardstick:
                names = ("inter_fg", "union_fg", "inter_bg", "union_bg")
                table = table.assign(**{name: table[f"{name}_{yardstick}"] for name in names})
            if score in SCORES:
                self._samples[at] = SCORES[score](table, count)
            else:
                self._samples[at] = mean_samples(table, measure, count)
        return self._samples[at]

    def scoring(self, item: Scored) -> str:
        """The grid of an evaluation's main score."""
        return self.methods[item.row["method"]]["params"]["evaluate"]["scoring"]

    def where(self, item: Scored) -> dict[str, Any]:
        """Id, data set, backbone, reading, method, on, shot, fold and seeds."""
        method = self.methods[item.row["method"]]
        return {
            "id": item.id,
            "dataset": dataset_of(method),
            "backbone": method["params"]["backbone"]["name"],
            "reading": method["reading"],
            "method": item.baseline or item.row["method"],
            "on": item.row["method"] if item.baseline else None,
        } | item.place

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row for each of `scored`, columns id and METRICS; mIoU and FB-IoU in percent, with 95 % intervals over
        query images.

        `on`: for a baseline, the method whose frozen networks it uses. `why`: the reason if a row has no scores.
        `vanished_queries`, `miou_without_vanished`: see engine.episode_loop.summary. `scoring`: the grid of mIoU and
        FB-IoU; BY_YARDSTICK has them on every grid, and without test-time augmentation.
        """
        rows = []
        for item in self.scored:
            names = ("miou", "fb_iou", "episodes", "why", "vanished_queries", "miou_without_vanished")
            values = {name: item.scores.get(name) for name in names}
            for measure in SCORES:
                samples = self.samples(item, measure)
                ends = (None, None) if samples is None else samples.interval()
                values |= dict(zip((f"{measure}_low", f"{measure}_high"), ends, strict=True))
            values |= {name: item.scores.get(name) for name in BY_YARDSTICK} | {"scoring": self.scoring(item)}
            values["key"] = item.job.key
            values |= {f"{role}_key": item.job.inputs.get(role) for role in ("train", "episodes")}
            evaluate = self.methods[item.row["method"]]["params"]["evaluate"]
            best = evaluate["checkpoint"] == "best"  # with all, the scores are those of the last
            values["checkpoint"] = "none" if item.baseline else "best" if best else "last"
            rows.append(self.where(item) | values)
        numbers = [f"{measure}{end}" for measure in SCORES for end in ("", "_low", "_high")]
        numbers += ["miou_without_vanished", *BY_YARDSTICK]
        table = frame(rows, ["id", *METRICS]).astype(dict.fromkeys(numbers, float))
        return table.sort_values(ORDER, ignore_index=True, kind="stable")

    @cached_property
    def per_class(self) -> pd.DataFrame:
        """One row for each class of each of `scored`, columns id and PER_CLASS; iou in percent, or the reason `why`."""
        rows = []
        for item in self.scored:
            start = self.where(item) | {"key": item.job.key}
            for number, values in item.scores.get("classes", {}).items():
                kept = {name: values[name] for name in ("name", "iou", "queries")}
                kept["why"] = None if values["queries"] else "no episode"
                rows.append(start | {"class": int(number)} | kept)
            for left_out in item.scores.get("excluded", []):
                why = f"excluded: too few test images ({left_out['images']})"
                rows.append(start | {"class": int(left_out["class"]), "name": left_out["name"], "why": why})
        table = frame(rows, ["id", *PER_CLASS]).astype({"iou": float})
        return table.sort_values([*ORDER, "class"], ignore_index=True, kind="stable")

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Every logged training step: dataset, method, shot, fold, seed, step, loss and its parts, key."""
        tables, done = [], set()
        for row in self.params["runs"]:
            at = tuple(row[name] for name in ("method", "shot", "fold", "seed"))
            job = self.jobs.get(row["train"])
            if job is None or at in done:
                continue
            done.add(at)
            steps = pd.DataFrame(read_steps(job.folder / "metrics.jsonl"))
            if len(steps):
                named = dict(zip(("method", "shot", "fold", "seed"), at, strict=True))
                dataset = dataset_of(self.methods[row["method"]])
                tables.append(steps.assign(dataset=dataset, **named, key=job.key))
        start = ["dataset", "method", "shot", "fold", "seed", "step", "loss"]
        if not tables:
            return pd.DataFrame(columns=[*start, "key"])
        table = pd.concat(tables, ignore_index=True)
        return table[start + [column for column in table.columns if column not in start]]

    @cached_property
    def priors(self) -> pd.DataFrame:
        """Quality of each prior map: on (method), prior, shot, fold, eval_seed, cross-entropies (nats a pixel), ap and
        iou_best (percent)."""
        rows, done = [], set()
        for row in self.params["baselines"]:
            at = {"on": row["method"]} | {name: row[name] for name in ("shot", "fold", "eval_seed")}
            job = self.jobs.get(row["job"])
            if job is None or tuple(at.values()) in done:
                continue
            done.add(tuple(at.values()))
            for prior, values in job.json("scores.json").get("priors", {}).items():
                rows.append({"prior": prior} | at | {name: values.get(name) for name in PRIOR_MEASURES})
        table = frame(rows, ["on", "prior", "shot", "fold", "eval_seed", *PRIOR_MEASURES])
        return table.astype(dict.fromkeys(PRIOR_MEASURES, float))

    def missing(self) -> list[str]:
        """A sentence for every number of the runs that is missing."""
        found = list(self.gaps)
        for row in self.params["runs"]:
            where = f"{row['method']}, {row['shot']}-shot, fold {row['fold']}, seed {row['seed']}"
            job = self.jobs.get(row["evaluate"])
            found += [f"{where}: not evaluated"] if job is None else self._why(job)
        for row in self.params["baselines"]:
            where = f"baselines on {row['method']}, {row['shot']}-shot, fold {row['fold']}"
            job = self.jobs.get(row["job"])
            found += [f"{where}: not evaluated"] if job is None else self._why(job)
        return list(dict.fromkeys(found))

    @staticmethod
    def _why(job: Finished) -> list[str]:
        why = job.json("scores.json").get("why")
        return [f"{job.step} {job.label}: {why}"] if why else []


def frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Rows with these columns; counts stay integers even if some are missing."""
    table = pd.DataFrame(rows, columns=columns)
    for column in set(COUNTS) & set(columns):
        table[column] = table[column].astype("Int64")
    return table
