"""Jobs of the training steps on a tiny data set, run in a folder without Snakemake or a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from i2r.config.experiment import Runtime
from i2r.config.load import read, resolve
from i2r.config.methods import overlay
from i2r.config.schema import RunParams
from i2r.data.shapes.generate import CLASSES
from i2r.nets.backbone.base import build_backbone
from i2r.pipeline.jobs import Job
from i2r.pipeline.steps import STEPS
from i2r.steps import base_learner, cam_head, data, episodes, lists, train

ROOT = Path(__file__).parents[1]

CHANGES: dict[str, dict[str, Any]] = {
    "data": {
        "min_area": 60,
        "min_class_images": 2,
        "shapes": {"train_images": 80, "val_images": 40, "seed": 0, "lookalikes": 0.0},
    },
    "backbone": {"pretrain": {"steps": 6, "batch": 8, "crop": 32, "margin": 4, "held_out": 40}},
    "base_learner": {"steps": 3, "batch": 4},
    "cam_head": {"steps": 5, "batch": 4},
    "train": {"steps": 6, "batch": 2, "optimiser": "sgd", "warmup": 0.0, "lr": 0.01, "weight_decay": 0.0001},
    "network": {"width": 16, "blocks": 2, "cross": 1, "dropout": 0.1, "reduce_dropout": 0.5},
    "evaluate": {"episodes": 12, "pictures": 3},
    "baselines": {"threshold_episodes": 6},
    "runtime": {"device": "cpu", "save_every": 1000.0, "cache_gb": 1.0},
}
BAM = {"name": "bam", "width": 16, "ensemble": True}


def run_params(**changes: dict[str, Any]) -> RunParams:
    """Sections of params for a test: those of params.yaml, overridden by CHANGES and then by `changes`."""
    committed = {
        **read(ROOT / "params.yaml"),
        "methods": {"own": {}},
        "targets": {"table1": {"methods": ["own"]}},
    }
    layers = [("params.yaml", committed), ("tests", CHANGES), ("test", changes)]
    return resolve(layers).methods["own"].params


def params_of(step: str, sections: RunParams) -> dict[str, Any]:
    """The params that the plan gives to a job of this step; weights stay paths."""
    plain = sections.model_dump(mode="json")
    if step == "data":
        return {
            "data": {name: plain["data"][name] for name in ("source", "shapes", "train_list", "val_list")}
        }
    if step == "backbone":
        return {"backbone": {name: plain["backbone"][name] for name in plain["backbone"] if name != "digest"}}
    found = STEPS[step].params(sections)
    if step == "baselines" and not plain["network"].get("embedding"):
        del found["baselines"]["embeddings"]
    if step == "evaluate" and sections.train.weights:
        found["train"] = {"weights": sections.train.weights}
    return found


def make_job(
    folder: Path, step: str, inputs: dict[str, Path], name: str = "", shot: int = 1, **changes: dict[str, Any]
) -> Job:
    """A job of fold 0 that writes to folder/<name or step>."""
    out = folder / (name or step)
    out.mkdir(parents=True, exist_ok=True)
    runtime = overlay(CHANGES["runtime"], changes.get("runtime", {}))
    return Job(
        step=step,
        key="0" * 12,
        label=name or step,
        args={"fold": 0, "shot": shot, "seed": 0, "eval_seed": 0},
        params=params_of(step, run_params(**changes)),
        inputs=inputs,
        out=out,
        state=folder / "state" / (name or step),
        runtime=Runtime(**runtime),
    )


def prepare(folder: Path, shot: int = 1, **changes: dict[str, Any]) -> dict[str, Path]:
    """The inputs of a training: data, lists, episodes, an untrained small backbone, base learner and CAM head."""
    inputs: dict[str, Path] = {}

    def do(step: str, run: Any) -> None:
        job = make_job(folder, step, dict(inputs), shot=shot, **changes)
        run(job)
        inputs[step] = job.out

    do("data", data.run)
    do("lists", lists.run)
    do("episodes", episodes.run)
    torch.manual_seed(0)
    (folder / "backbone").mkdir()
    net = build_backbone(run_params().backbone, len(CLASSES))
    save_file(net.state_dict(), folder / "backbone" / "weights.safetensors")
    inputs["backbone"] = folder / "backbone"
    do("base_learner", base_learner.run)
    do("cam_head", cam_head.run)
    return inputs


def trained(folder: Path) -> dict[str, Path]:
    """The inputs of an evaluation: those of `prepare`, and a short training."""
    made = prepare(folder)
    job = make_job(folder, "train", made)
    train.run(job)
    return {**made, "train": job.out}
