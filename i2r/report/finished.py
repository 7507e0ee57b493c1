"""A finished job, read from its files: manifest.json, scores.json, episodes.csv, metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from i2r.config.schema import YARDSTICKS
from i2r.data.index_table import INDEX, read_summary
from i2r.errors import InputError
from i2r.metrics.statistics import fb_iou_samples, miou_samples

SCORES = {"miou": miou_samples, "fb_iou": fb_iou_samples}
# Names of the scores on each yardstick, such as `miou_bam` -> the score and the yardstick.
BY_YARDSTICK = {f"{score}_{name}": (score, name) for score in SCORES for name in YARDSTICKS}


class ResultsError(InputError):
    """A file of a job that cannot be read; the message names it."""


@dataclass(frozen=True)
class Finished:
    """A finished job: the folder of its products and the content of its manifest."""

    folder: Path
    step: str
    key: str
    label: str
    args: dict[str, Any]
    params: dict[str, Any]
    inputs: dict[str, str]  # role: key
    products: dict[str, str]  # file: sha256
    metrics: dict[str, Any]
    environment: dict[str, Any]
    times: dict[str, Any]
    data_root: str | None
    cost: dict[str, float | None]  # as i2r.pipeline.usage measures it

    @property
    def store(self) -> str:
        """Folder of the result, relative to results/."""
        return f"store/{self.step}/{self.key}"

    def json(self, file: str) -> Any:
        """A JSON product.

        Raises:
            ResultsError: it is missing or unreadable.
        """
        try:
            return json.loads((self.folder / file).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise ResultsError(f"{self.folder / file}: {error}") from None

    @cached_property
    def data_set(self) -> dict[str, Any]:
        """Of a data job: what its index says of the whole data set, see index_table.read_summary."""
        return read_summary(self.folder / INDEX)

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Scores: of an evaluation under the name "", of a baselines job by baseline (none in an empty fold).

        Those of the yardsticks have the names of BY_YARDSTICK; of an evaluation's prior there are `ap` and `iou_cam`.
        """
        found = self.json("scores.json")
        own = {"": found | _of_prior(found)} if self.step == "evaluate" else found.get("methods", {})
        return {name: scores | _by_yardstick(scores) for name, scores in own.items()}

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """Every scored episode: index, class, query, the four pixel counts, those of the other yardsticks, and measures
        of the prior, if there is one; for baselines also method."""
        return pd.read_csv(
            self.folder / "episodes.csv",
            usecols=lambda column: column != "supports",
            dtype={"query": str},
        )

    def episodes_of(self, baseline: str) -> pd.DataFrame:
        """The episodes of an evaluation (""), or of one baseline."""
        table = self.episodes
        return table[table["method"] == baseline] if baseline else table


def _by_yardstick(scores: Mapping[str, Any]) -> dict[str, float]:
    known = scores.get("yardsticks", {})
    return {
        name: known[yardstick][score]
        for name, (score, yardstick) in BY_YARDSTICK.items()
        if yardstick in known
    }


def _of_prior(scores: Mapping[str, Any]) -> dict[str, float]:
    """Average precision of the prior, and IoU of CAM+ with the object from its mean precision and recall; percent."""
    known = scores.get("prior", {})
    found = {"ap": known["ap"]} if "ap" in known else {}
    precision, recall = (known.get(name) for name in ("precision_cam", "recall_cam"))
    if precision is None or recall is None:
        return found
    return found | {"iou_cam": 100 / (100 / precision + 100 / recall - 1) if precision and recall else 0.0}


def from_manifest(folder: Path, manifest: Mapping[str, Any]) -> Finished:
    """A job from its manifest; KeyError if an entry is missing."""
    spec = manifest["spec"]
    return Finished(
        folder=folder,
        step=spec["step"],
        key=spec["key"],
        label=spec["label"],
        args=spec["args"],
        params=spec["params"],
        inputs={role: given["key"] for role, given in spec["inputs"].items()},
        products=manifest["products"],
        metrics=manifest["metrics"] or {},
        environment=manifest["environment"],
        times=manifest["times"],
        data_root=spec["data_root"],
        cost=manifest.get("cost") or _cost_of_old(manifest),
    )


def _cost_of_old(manifest: Mapping[str, Any]) -> dict[str, float | None]:
    """What a manifest from before costs were measured says of them."""
    return {"seconds": manifest["times"].get("seconds"), "memory_mb": manifest.get("peak_memory_mb")}


def read_job(folder: Path) -> Finished:
    """The finished job whose manifest is in `folder`.

    Raises:
        ResultsError: there is no manifest (the job has not finished), or an entry is missing in it.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ResultsError(f"{folder}: no manifest.json, so the job has not finished")
    try:
        return from_manifest(folder, json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ResultsError(f"{path}: not a manifest: {error!r}") from None


def read_jobs(folders: Mapping[str, Path]) -> tuple[dict[str, Finished], list[str]]:
    """Finished jobs by role, and a sentence for each job that has not finished."""
    jobs, gaps = {}, []
    for role, folder in folders.items():
        try:
            jobs[role] = read_job(folder)
        except ResultsError as error:
            gaps.append(str(error))
    return jobs, gaps


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, without an incomplete last line."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    steps = []
    for number, line in enumerate(lines, 1):
        try:
            steps.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise ResultsError(f"{path}: line {number} is not JSON") from None
    return steps
