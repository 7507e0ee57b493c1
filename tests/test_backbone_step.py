"""The backbone step: training of the small backbone, and weights from a file."""

import json
import os
import signal

import pytest
import torch
from learning import make_job, run_params
from safetensors.torch import load_file

from i2r.engine import trainer
from i2r.files import sha256
from i2r.nets.io.weights import open_backbone
from i2r.steps import backbone


def weights(job):
    return load_file(job.out / "weights.safetensors")


def rows(job):
    lines = [json.loads(line) for line in (job.out / "metrics.jsonl").read_text().splitlines()]
    return [{n: v for n, v in line.items() if not n.endswith("_s") and n != "seconds"} for line in lines]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Six steps of eight small crops."""
    job = make_job(tmp_path_factory.mktemp("trained"), "backbone", {})
    return job, backbone.run(job)


def test_it_reports_what_it_learned(trained):
    job, metrics = trained
    assert (metrics["classes"], metrics["pictures"]) == (20, 48)
    for name in ("held_out_accuracy", "held_out_accuracy_dense", "held_out_accuracy_masked"):
        assert 0 <= metrics[name] <= 1
    assert [row["step"] for row in rows(job)] == list(range(1, 7))
    assert {"loss", "accuracy", "accuracy_masked", "lr"} <= rows(job)[0].keys()


def test_its_weights_load_in_the_form_for_episodes(trained):
    job, _ = trained
    net = open_backbone(run_params().backbone, job.out / "weights.safetensors").eval()
    assert net.fc.out_features == 20
    x2, x3 = net.to_layer3(torch.randn(1, 3, 97, 97))
    assert (x2.shape[-1], x3.shape[-1], net.layer4(x3).shape[-1]) == (25, 13, 13)
    assert all(torch.isfinite(t).all() for t in weights(job).values())


def test_stopped_and_resumed_equals_whole(trained, tmp_path, monkeypatch):
    whole, metrics = trained
    job = make_job(tmp_path, "backbone", {})
    update = trainer.Progress.update

    def stop(self, n=1, **values):
        update(self, n, **values)
        if self.unit == "step" and self.done == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.Progress, "update", stop)
    with pytest.raises(KeyboardInterrupt):
        backbone.run(job)
    monkeypatch.undo()
    again = backbone.run(job)
    assert same(weights(job), weights(whole)) and rows(job) == rows(whole)
    assert again["held_out_accuracy"] == metrics["held_out_accuracy"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"crop": 40}, {"margin": 0}, {"pictures": 20}], ids=str)
def test_options_change_the_training(trained, tmp_path, change):
    pretrain = {**run_params().backbone.pretrain.model_dump(), "steps": 2, "held_out": 20, **change}
    job = make_job(tmp_path, "backbone", {}, backbone={"pretrain": pretrain})
    metrics = backbone.run(job)
    assert metrics["pictures"] == min(pretrain["pictures"], 16)
    assert rows(job)[1]["loss"] != rows(trained[0])[1]["loss"]


def test_it_learns(tmp_path):
    """A hundred steps give much more than chance, 0.05."""
    pretrain = {"steps": 100, "batch": 32, "pictures": 800, "held_out": 200, "crop": 48, "margin": 8}
    job = make_job(tmp_path, "backbone", {}, backbone={"pretrain": pretrain})
    metrics = backbone.run(job)
    assert metrics["held_out_accuracy_masked"] > 0.1
    assert rows(job)[-1]["loss"] < rows(job)[0]["loss"]


def test_a_file_of_weights_is_taken_as_it_is(trained, tmp_path, capsys):
    file = trained[0].out / "weights.safetensors"
    job = make_job(tmp_path, "backbone", {}, backbone={"weights": str(file)})
    assert backbone.run(job) == {"classes": 20, "source": str(file)}
    assert same(weights(job), load_file(file))
    assert f"digest {sha256(file)}" in capsys.readouterr().out
