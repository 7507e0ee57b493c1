"""The worked examples of docs/extending.md, run by the steps: HSNet, and I2R on a ViT without a CAM head."""

import pytest
import torch
from learning import make_job, prepare
from networks import backbone_params
from safetensors.torch import save_file

from i2r.nets.backbone.base import build_backbone
from i2r.steps import backbone, base_learner, data, episodes, evaluate, lists, train


@pytest.mark.parametrize("shot", [1, 2])
def test_hsnet_trains_and_evaluates(tmp_path, shot):
    changes = {"network": {"name": "hsnet", "channels": [4, 8, 8]}}
    inputs = prepare(tmp_path, shot, **changes)
    scores = learned(tmp_path, inputs, shot, changes)
    assert scores["episodes"] == 12 and 0 <= scores["miou"] <= 100


@pytest.mark.parametrize("prior", ["mean", "bam"])
def test_i2r_on_a_vit_trains_and_evaluates(tmp_path, prior):
    torch.manual_seed(0)
    weights = tmp_path / "vit.safetensors"
    save_file(build_backbone(backbone_params("vit_small_14")).state_dict(), weights)
    changes = {
        "backbone": {"name": "vit_small_14", "weights": str(weights)},
        "cam_head": {"mode": "none"},
        "network": {"prior": prior, "ensemble": prior == "bam"},
    }
    inputs = {}
    steps = {"data": data, "lists": lists, "episodes": episodes, "backbone": backbone}
    steps |= {"base_learner": base_learner} if prior == "bam" else {}
    for step, module in steps.items():
        job = make_job(tmp_path, step, dict(inputs), **changes)
        module.run(job)
        inputs[step] = job.out
    scores = learned(tmp_path, inputs, 1, changes)
    assert scores["episodes"] == 12 and scores["prior_ap"] > 0


def learned(folder, inputs, shot, changes):
    """Metrics of an evaluation after a training of six steps."""
    training = make_job(folder, "train", inputs, shot=shot, **changes)
    losses = train.run(training)
    assert losses["loss"] > 0 and losses["main"] > 0
    job = make_job(folder, "evaluate", inputs | {"train": training.out}, shot=shot, **changes)
    return evaluate.run(job)
