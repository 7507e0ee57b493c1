"""The registry of steps: the function, products, params, version and stage of each.

The rules of the workflow, the plan and the runner use it; dvc.yaml is tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from i2r.config.experiment import STAGES, Runtime
from i2r.config.networks import CamOptions, NetworkOptions
from i2r.config.schema import RunParams

ALL = ("*",)  # every value of a section
CAM = tuple(n for n in CamOptions.model_fields if n not in (*NetworkOptions.model_fields, "prior"))


@dataclass(frozen=True)
class Step:
    """A kind of job.

    Attributes:
        stage: of dvc.yaml; trainings and evaluations that only ablations need belong to `ablate` instead.
        function: "module:function"; takes a Job, writes the products, returns metrics.
        products: files and folders that it writes.
        version: part of its jobs' keys; raise it when its numbers change.
        reads: section of params -> the values in it that the result depends on.
        folders: those of its products that are folders.
        sometimes: products that only some of its jobs write, see plan.py; a rule does not name them.
        torch: whether it computes with torch; the number of threads is then part of its keys.
        shared: whether several processes can share its training (runtime.processes).
        network: whether it downloads into the data folder. Such a job runs one at a time, and looks at the data folder
            whenever it runs.
        local: whether its jobs run where Snakemake does, and never on a node of a cluster, which may have no network.
        memory: MB for a job, without the cached features. minutes: time limit on a cluster. See MEASURED below.
    """

    name: str
    stage: str
    function: str
    products: tuple[str, ...]
    version: int = 1
    reads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()
    torch: bool = False
    shared: bool = False
    network: bool = False
    local: bool = False
    memory: int = 4000
    minutes: int = 60

    def processes(self, runtime: Runtime) -> int:
        """Number of processes that a job has, without those that load images."""
        return runtime.processes if self.shared else 1

    def params(
        self, sections: RunParams, without: dict[str, tuple[str, ...]] | None = None
    ) -> dict[str, Any]:
        """The values of a method's sections that this step reads, as plain values."""
        found: dict[str, Any] = {}
        for section, names in self.reads.items():
            values = getattr(sections, section).model_dump(mode="json")
            left_out = (without or {}).get(section, ())
            kept = values if names == ALL else {name: values[name] for name in names if name in values}
            found[section] = {
                name: value
                for name, value in kept.items()
                if name not in left_out and UNSAID.get((section, name), ...) != value
            }
        return found


NETWORK = {"data": ("size",), "backbone": ("name", "stride_at")}  # what every step with a network reads
EPISODES = NETWORK | {"backbone": ("name", "stride_at", "precision")}  # what every step with episodes reads
# Values that are left out of keys, so that results from before the params existed keep theirs.
UNSAID = {("backbone", "precision"): "fp32", ("train", "checkpoints"): 0}
LEARNED = ("weights.safetensors", "scores.json", "metrics.jsonl")
# Beside weights.safetensors, where a training is validated.
BEST, LAST = "best.safetensors", "last.safetensors"
# Of train.checkpoints: STEP.safetensors, in a folder; and the counts of every checkpoint on every test episode.
KEPT, BY_CHECKPOINT = "checkpoints", "checkpoints.csv"
SCORED = ("scores.json", "episodes.csv", "pictures.npz")

# MEASURED, on CPUs: peak memory in MB (`peak_memory_mb` of manifests, results/benchmarks/) of shapes at 97 px; of
# voc-animals at 321 px and batch 4, its trainings with up to 4096 MB of cached features; and of one training step at
# 473 px and batch 8, ResNet-50, without. `memory` is that with a margin. Host memory beside a GPU was not measured.
#   data 195, 193 (COCO's annotations: not measured); lists 391, 390; episodes 203; backbone 749, 683;
#   base_learner 663, 2949; cam_head 495, 800; train 1010, 6579, 3372; evaluate 668; controls 551; report 527; track 276
# Seconds of the longest job there, on one core of two loaded ones: backbone 387, base_learner 823, cam_head 334,
# train 714, all others below 110. No run of the paper's size was measured, so `minutes` are far above: trainings and
# evaluations that need longer go on from their saved state in the next attempt.
STEPS = {
    step.name: step
    for step in (
        # for `fetch`, `data` and `backbone`, plan.py chooses the params: they depend on the source and the name
        Step(
            "fetch", "data", "i2r.steps.fetch:run", ("fetched.json",), network=True, local=True, memory=2000,
            minutes=1440,
        ),
        Step(
            "data", "data", "i2r.steps.data:run", ("index.parquet", "samples.png"), 2,
            folders=("VOC",), sometimes=("objects.csv",), minutes=120,
        ),
        Step(
            "lists", "data", "i2r.steps.lists:run", ("lists.json",), 2,
            {"data": ("novel", "min_area", "draw", "folds", "size")}, memory=800,
        ),
        Step(
            "episodes", "data", "i2r.steps.episodes:run", ("episodes.json",), 2,
            {"data": ("min_class_images",), "evaluate": ("episodes", "protocol")}, memory=800,
        ),
        Step(
            "backbone", "backbone", "i2r.steps.backbone:run", ("weights.safetensors", "metrics.jsonl"), 3,
            torch=True, memory=1500, minutes=240,
        ),
        Step(
            "base_learner", "base_learner", "i2r.steps.base_learner:run", LEARNED, 3,
            NETWORK | {"base_learner": ALL}, sometimes=(BEST, LAST),
            torch=True, shared=True, minutes=1440,
        ),
        Step(
            "cam_head", "cam_head", "i2r.steps.cam_head:run", LEARNED, 3,
            NETWORK | {"cam_head": ALL}, torch=True, memory=1500, minutes=720,
        ),
        Step(
            "train", "train", "i2r.steps.train:run", ("weights.safetensors", "metrics.jsonl"), 4,
            EPISODES | {"network": ALL, "train": ALL}, sometimes=(BEST, KEPT),
            torch=True, shared=True, memory=5000, minutes=2880,
        ),
        Step(
            "evaluate", "evaluate", "i2r.steps.evaluate:run", SCORED, 5,
            EPISODES | {"network": ALL, "evaluate": ("scoring", "tta", "mask", "delta", "checkpoint", "pictures")},
            sometimes=(BY_CHECKPOINT,), torch=True, minutes=720,
        ),
        Step(
            "controls", "evaluate", "i2r.steps.controls:run", ("scores.json", "controls.csv"), 1,
            EPISODES | {"network": ALL, "evaluate": ("scoring", "mask", "delta", "checkpoint", "controls")},
            torch=True, minutes=240,
        ),
        Step(
            "baselines", "evaluate", "i2r.steps.baselines:run", SCORED, 5,
            EPISODES | {"network": CAM, "evaluate": ("scoring", "pictures"), "baselines": ALL},
            torch=True, minutes=720,
        ),
        Step(
            "report", "report", "i2r.steps.report:run",
            (
                *("report.html", "report.md", "table.md", "ablation.md", "priors.md", "metrics.json"),
                *("table.csv", "ablation.csv", "priors.csv", "metrics.csv", "per_class.csv", "curves.csv"),
                *("controls.csv", "strata.csv", "cost.csv", "claims.csv", "claims.md", "cells.csv", "checkpoints.csv"),
                *("checklist.md", "controls.md", "strata.md", "cost.md", "controls.tex", "strata.tex", "cost.tex"),
                *("table.tex", "ablation.tex", "priors.tex", "claims.tex", "numbers.tex"),
                "figures",
            ),
            14, folders=("figures",), memory=1500,
        ),
        Step("track", "report", "i2r.steps.track:run", ("tracked.json",), local=True, memory=800),  # needs MLflow
    )
}  # fmt: skip


def steps_of(stage: str) -> list[Step]:
    """The steps that can have jobs in a stage.

    Raises:
        KeyError: an unknown stage.
    """
    if stage not in STAGES:
        raise KeyError(stage)
    if stage == "ablate":
        return [STEPS["train"], STEPS["evaluate"]]
    return [step for step in STEPS.values() if step.stage == stage]
