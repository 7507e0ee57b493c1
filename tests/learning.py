"""Jobs of the learning steps on a tiny data set, made in a folder without Snakemake or a plan."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from i2r.config import schema as params
from i2r.data import dataset, episodes, lists
from i2r.data.shapes.generate import CLASSES
from i2r.nets.backbone.models import build_backbone
from i2r.pipeline.jobs import Job
from i2r.pipeline.plan import CAM
from i2r.steps import base_learner, cam_head

ROOT = Path(__file__).parents[1]

CHANGES: dict[str, dict[str, Any]] = {
    "data": {
        "min_area": 60,
        "min_class_images": 2,
        "shapes": {"train_images": 80, "val_images": 40, "seed": 0},
    },
    "base_learner": {"steps": 3, "batch": 4},
    "cam_head": {"steps": 5, "batch": 4},
    "train": {"steps": 6, "batch": 2, "optimiser": "sgd", "warmup": 0.0, "lr": 0.01, "weight_decay": 0.0001},
    "method": {"width": 16, "blocks": 2, "cross": 1, "dropout": 0.1, "reduce_dropout": 0.5},
    "evaluate": {"episodes": 12},
    "baselines": {"threshold_episodes": 6},
    "report": {"pictures": 3, "bootstrap": 50},
    "runtime": {"device": "cpu", "threads": 1, "save_every": 1000.0, "cache_gb": 1.0},
}


def sections(**changes: dict[str, Any]) -> dict[str, Any]:
    """Sections of params for a test; `changes` come on top of CHANGES, section by section."""
    values = params.load(ROOT / "params.yaml").model_dump(mode="json")
    for source in (CHANGES, changes):
        for name, change in source.items():
            values[name] |= deepcopy(change)
    return values


def make_job(
    folder: Path, step: str, inputs: dict[str, Path], name: str = "", shot: int = 1, **changes: dict[str, Any]
) -> Job:
    """A job of fold 0 that writes to folder/<name or step>."""
    values = sections(**changes)
    if step == "baselines":
        values["method"] = {key: values["method"][key] for key in CAM}
    out = folder / (name or step)
    out.mkdir(parents=True, exist_ok=True)
    return Job(
        step=step,
        key="0" * 12,
        name=name or step,
        args={"fold": 0, "shot": shot, "seed": 0, "eval_seed": 0, "method": "i2r"},
        params=values,
        inputs=inputs,
        out=out,
        state=folder / "state" / (name or step),
        runtime=params.Runtime(**values["runtime"]),
        data_root=None,
    )


def prepare(folder: Path, shot: int = 1, **changes: dict[str, Any]) -> dict[str, Path]:
    """The inputs of a training: data, lists, episodes, an untrained small backbone, base learner and CAM head."""
    inputs: dict[str, Path] = {}

    def do(step: str, run: Any) -> None:
        job = make_job(folder, step, dict(inputs), shot=shot, **changes)
        run(job)
        inputs[step] = job.out

    do("data", dataset.run)
    do("lists", lists.run)
    do("episodes", episodes.run)
    torch.manual_seed(0)
    (folder / "backbone").mkdir()
    net = build_backbone(params.Backbone(**sections()["backbone"]), len(CLASSES))
    save_file(net.state_dict(), folder / "backbone" / "weights.safetensors")
    inputs["backbone"] = folder / "backbone"
    do("base_learner", base_learner.run)
    do("cam_head", cam_head.run)
    return inputs
