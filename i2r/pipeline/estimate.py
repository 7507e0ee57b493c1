"""What the jobs of a plan will cost, before they start: from what finished jobs recorded, or else by calculation.

Sources of a time, best first: `measured`, the median of jobs that differ only in fold and seeds; `scaled`, from jobs
with the same network and size, by the images or episodes; `reference`, the time of an episode on a card, measured
elsewhere (reference.csv); `calculated`, the multiply-adds of multiply_adds.csv at the peak rate of a card of cards.csv,
which is a lower bound. Where none of them is known, the time is unknown.
"""

from __future__ import annotations

import csv
import heapq
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from i2r.config.experiment import Runtime
from i2r.pipeline.plan import Plan
from i2r.pipeline.spec import RESULTS, Input, Spec, from_values
from i2r.pipeline.steps import STEPS
from i2r.pipeline.store import manifest
from i2r.pipeline.work import likeness, published_images, signature, units, value

SCALED = (
    30  # times as much or as little work as that of a finished job, over which its time is scaled at most
)
MULTIPLY_ADDS = Path(__file__).with_name("multiply_adds.csv")
CARDS = Path(__file__).with_name("cards.csv")
REFERENCE = Path(__file__).with_name("reference.csv")
RATES = {"fp32": "fp32_tflops", "bf16": "bf16_tflops"}


@dataclass(frozen=True)
class Record:
    """What a finished job took. `gpu`: whether it ran on one; bytes: of its products."""

    spec: Spec
    seconds: float
    gpu: bool
    memory_mb: float | None
    bytes: float
    train_images: int | None


@dataclass(frozen=True)
class Estimate:
    """What a job will take. `source`: where the seconds are from, see above; empty if they are unknown."""

    seconds: float | None
    source: str
    memory_mb: float | None
    bytes: float | None


def records(results: Path = RESULTS) -> dict[str, Record]:
    """Finished jobs in the store, by key; only those of this machine if it has made any."""
    found: dict[str, tuple[str | None, Record]] = {}
    for path in sorted((results / "store").glob("*/*/manifest.json")):
        values = manifest(path.parent)
        if values is not None and values["spec"]["step"] in STEPS:
            found[values["spec"]["key"]] = values.get("environment", {}).get("machine"), _record(values)
    here = {key: record for key, (machine, record) in found.items() if machine == platform.node()}
    return here or {key: record for key, (_, record) in found.items()}


def _record(values: Mapping) -> Record:
    cost = values.get("cost") or {}
    return Record(
        from_values(values["spec"]),
        float(cost.get("seconds") or values["times"]["seconds"]),
        bool(cost.get("gpu_seconds")),
        cost.get("memory_mb", values.get("peak_memory_mb")),
        values.get("bytes", sum(values["sizes"].values())),
        values["metrics"].get("train_images"),
    )


class Estimates:
    """Estimates for jobs of a plan.

    Args:
        on_gpu: whether jobs with torch will run on a GPU; only finished jobs that did so as well say how long.
        card: the GPU, a row of cards.csv, for calculation; None: nothing is calculated.
    """

    def __init__(self, plan: Plan, done: Mapping[str, Record], on_gpu: bool, card: str | None = None) -> None:
        self.plan, self.done, self.on_gpu, self.card = plan, done, on_gpu, card
        self.same: dict[str, list[Record]] = defaultdict(list)
        self.alike: dict[tuple, list[tuple[float, Record]]] = defaultdict(list)
        self._signature = cache(self._find_signature)
        for key, record in done.items():
            if STEPS[record.spec.step].torch and record.gpu != on_gpu:
                continue
            self.same[self._signature(key)].append(record)
            if work := self._units(record.spec):
                self.alike[likeness(record.spec)].append((work, record))

    def of(self, spec: Spec) -> Estimate:
        """The estimate for one job."""
        same = self.same.get(self._signature(spec.key), [])
        work = self._units(spec)
        near = [
            (work / own, record)
            for own, record in (self.alike.get(likeness(spec), []) if work else [])
            if 1 / SCALED <= work / own <= SCALED
        ]
        kin = same or [record for _, record in near]
        memory = max((record.memory_mb for record in kin if record.memory_mb), default=None)
        size = median(record.bytes for record in kin) if kin else None
        if same:
            return Estimate(median(record.seconds for record in same), "measured", memory, size)
        if near:
            return Estimate(median(scale * record.seconds for scale, record in near), "scaled", memory, size)
        if (seconds := self._on_card(spec, work)) is not None:
            return Estimate(seconds, "reference", None, None)
        seconds = self._calculated(spec, work)
        return Estimate(seconds, "calculated" if seconds is not None else "", None, None)

    def _known(self, key: str) -> Spec:
        return self.plan.jobs[key] if key in self.plan.jobs else self.done[key].spec

    def _find_signature(self, key: str) -> str:
        return signature(
            self._known(key),
            lambda given: self._signature(given.key) if self._lookup(given) else given.key,
        )

    def _lookup(self, given: Input) -> Spec | None:
        return self._known(given.key) if given.key in self.plan.jobs or given.key in self.done else None

    def _units(self, spec: Spec) -> float | None:
        return units(spec, self._lookup, self._images)

    def _images(self, lists: Spec) -> int | None:
        if lists.key in self.done:
            return self.done[lists.key].train_images
        return published_images(lists, self._lookup)

    def _on_card(self, spec: Spec, work: float | None) -> float | None:
        """Seconds by what was measured on such a card elsewhere."""
        if not (self.card and self.on_gpu and work) or value(spec.params, "train.augment.views"):
            return None
        precisions = (
            str(value(spec.params, f"{part}.precision") or "fp32") for part in ("backbone", "train")
        )
        how = (*precisions, str(spec.runtime.get("cuda_graphs", False)))
        seconds = references().get((self.card, *_place(spec), *how))
        return None if seconds is None else work * seconds

    def _calculated(self, spec: Spec, work: float | None) -> float | None:
        """Seconds at the card's peak rate; training views that are kept are not encoded again, so they do not count."""
        adds = multiply_adds().get(_place(spec))
        if not (self.card and self.on_gpu and work and adds) or value(spec.params, "train.augment.views"):
            return None
        rate = cards()[self.card][RATES[value(spec.params, "train.precision") or "bf16"]]
        return work * 2e9 * adds / (1e12 * rate)


def _place(spec: Spec) -> tuple[str, ...]:
    """Step, network, backbone, size and shot of a job, as in the tables of times."""
    names = ("network.name", "backbone.name", "data.size")
    values = (str(value(spec.params, name)) for name in names)
    return (spec.step, *values, str(spec.args.get("shot", "")))


@cache
def references() -> dict[tuple[str, ...], float]:
    """(card, step, network, backbone, size, shot, precisions, graphs) -> measured seconds of an episode."""
    with REFERENCE.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        last = next(rows).index("seconds")
        return {tuple(row[:last]): float(row[last]) for row in rows}


@cache
def multiply_adds() -> dict[tuple[str, ...], float]:
    """(step, network, backbone, size, shot) -> billions of multiply-adds of an episode, counted from the networks."""
    with MULTIPLY_ADDS.open(encoding="utf-8", newline="") as file:
        names = ("step", "network", "backbone", "size", "shot")
        return {tuple(row[name] for name in names): float(row["billions"]) for row in csv.DictReader(file)}


@cache
def cards() -> dict[str, dict[str, float]]:
    """Name of a card -> its peak rates, in tera floating-point operations a second."""
    with CARDS.open(encoding="utf-8", newline="") as file:
        return {
            row["card"]: {rate: float(row[rate]) for rate in RATES.values()} for row in csv.DictReader(file)
        }


def wall_time(jobs: Sequence[Spec], seconds: Mapping[str, float], cores: int, gpus: int) -> float:
    """Seconds that these jobs take together, started as Snakemake does: inputs first, then by step.

    Args:
        jobs: those that are to run.
        seconds: of each, by key.
        cores, gpus: how many there are; each process of a job takes its threads, and with GPUs one of them if the step
            uses torch. A job that takes more than all has all.
    """
    all_cores, all_gpus = cores, gpus
    order = {name: place for place, name in enumerate(STEPS)}
    rank = {spec.key: (order[spec.step], place) for place, spec in enumerate(jobs)}
    missing = {spec.key: {given.key for given in spec.inputs.values()} & rank.keys() for spec in jobs}
    users: dict[str, list[Spec]] = defaultdict(list)
    for spec in jobs:
        for key in missing[spec.key]:
            users[key].append(spec)
    waiting: dict[tuple[int, int], list] = defaultdict(
        list
    )  # (cores, GPUs) that a job takes -> jobs, first by rank

    def ready(spec: Spec) -> None:
        step = STEPS[spec.step]
        processes = step.processes(Runtime(**spec.runtime))
        taken = min(spec.threads * processes, all_cores), min(processes * step.torch, all_gpus)
        heapq.heappush(waiting[taken], (rank[spec.key], spec))

    for spec in jobs:
        if not missing[spec.key]:
            ready(spec)
    running: list[tuple[float, tuple[int, int], Spec, tuple[int, int]]] = []
    now = 0.0
    while running or any(waiting.values()):
        for taken, queue in waiting.items():
            while queue and taken[0] <= cores and taken[1] <= gpus:
                place, spec = heapq.heappop(queue)
                cores, gpus = cores - taken[0], gpus - taken[1]
                heapq.heappush(running, (now + seconds[spec.key], place, spec, taken))
        now, _, done, taken = heapq.heappop(running)
        cores, gpus = cores + taken[0], gpus + taken[1]
        for user in users[done.key]:
            missing[user.key].remove(done.key)
            if not missing[user.key]:
                ready(user)
    return now


def total(values: Iterable[float | None]) -> tuple[float, int]:
    """The sum of the known values, and how many are not known."""
    values = list(values)
    return sum(value for value in values if value is not None), sum(value is None for value in values)
