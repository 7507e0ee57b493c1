"""A training that two processes share, on CPUs: the numbers of one process, its signals, and its faults."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from learning import BAM, make_job, prepare
from safetensors.torch import load_file
from test_contract import calm, episode, network
from torch import nn

from i2r.config.experiment import Runtime
from i2r.config.networks import NETWORKS
from i2r.config.schema import Train
from i2r.engine import processes, trainer
from i2r.engine.inputs import job_lists
from i2r.errors import InputError
from i2r.nets.encoder import encode_episode
from i2r.nets.whole_batch import cross_entropy, norm_whole_batches, places, total
from i2r.pipeline.jobs import JobError
from i2r.steps import base_learner, train

CALM = {"dropout": 0.0, "reduce_dropout": 0.0}
# With higher rates the rounding of one step grows so fast that even a batch in another order differs after 20 steps.
TRAIN = {"steps": 20, "batch": 4, "lr": 1e-4, "augment": {"views": 0}}
BASE = {"steps": 20, "batch": 4, "lr": 1e-4, "dropout": 0.0}
TWO = {"processes": 2}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"))


def rows(job):
    lines = [json.loads(line) for line in (job.out / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in row.items() if not name.endswith(("_s", "seconds"))} for row in lines]


def weights(job):
    return load_file(job.out / "weights.safetensors")


def trained_by_one_and_two(tmp_path, step, run, inputs, **changes):
    """Both jobs, after a comparison of what they logged and learned."""
    one, two = (
        make_job(tmp_path, step, inputs, name=f"{step}-{count}", runtime={"processes": count}, **changes)
        for count in (1, 2)
    )
    for job in (one, two):
        run(job)
        assert not dist.is_initialized() and not multiprocessing.active_children()
    assert sorted(path.name for path in one.out.iterdir()) == sorted(path.name for path in two.out.iterdir())
    for a, b in zip(rows(one), rows(two), strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-6)
    learned = weights(two)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(learned[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert len({row["loss"] for row in rows(one)}) == len(rows(one)) == 20
    return one, two


# --- numbers -----------------------------------------------------------------------------------------------------


def gradients(network_name: str) -> torch.Tensor:
    """Gradients in double precision of this process's part of a batch of 4 two-shot episodes.

    Their queries have different numbers of known pixels.
    """
    torch.manual_seed(0)
    net = network(network_name, 2, **calm(network_name))
    meta = net.meta_learner.double().train()
    if dist.is_initialized():
        norm_whole_batches(meta)
    data = episode(4, 2)
    for number, mask in enumerate(data["mask_q"]):
        mask[: 10 * number] = 255
    own = slice(places(4).start, places(4).stop)
    part = {name: values[own] for name, values in data.items()}
    inputs = encode_episode(net.encoder, **part, options=net.options)
    for key, value in vars(inputs).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            setattr(inputs, key, value.double())
        elif isinstance(value, tuple):
            setattr(inputs, key, tuple(x.double() for x in value))
    meta(inputs).loss.backward()
    return total(torch.cat([p.grad.flatten() for p in meta.parameters() if p.grad is not None]))


def write_gradients(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save({name: gradients(name) for name in NETWORKS}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_gradients_of_two_processes_add_up_to_those_of_one(tmp_path):
    torch.multiprocessing.spawn(write_gradients, (tmp_path,), 2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name in NETWORKS:
        assert torch.equal(found[0][name], found[1][name])
        whole = gradients(name)
        # features are in single precision, and are computed for fewer images at a time
        assert (found[0][name] - whole).norm() < 1e-4 * whole.norm(), name


CASES = {
    "i2r": {"network": CALM, "shot": 2},
    "bam": {"network": BAM | CALM},
    "kept views, validated": {
        "network": CALM,
        "train": TRAIN | {"augment": {"views": 2}, "validate_every": 0.5, "validation_episodes": 4},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_does(inputs, tmp_path, case):
    one, _ = trained_by_one_and_two(tmp_path, "train", train.run, inputs, **{"train": TRAIN} | CASES[case])
    assert ("validation_miou" in rows(one)[-1]) == (case == "kept views, validated")


@pytest.mark.slow
@pytest.mark.parametrize("trains", ["head", "all"])
def test_two_processes_train_a_base_learner_as_one_does(inputs, tmp_path, trains):
    changes = {"base_learner": BASE | {"trains": trains}}
    if trains == "all":
        changes["cam_head"] = {"mode": "untouched"}
    earlier = {name: inputs[name] for name in ("data", "lists", "backbone")}
    trained_by_one_and_two(tmp_path, "base_learner", base_learner.run, earlier, **changes)


def test_mean_cross_entropy_is_that_of_torch():
    logits, target = torch.randn(2, 5, 9, 9), torch.randint(5, (2, 9, 9))
    target[0, :4] = 255
    assert torch.equal(
        cross_entropy(logits, target, 255), nn.functional.cross_entropy(logits, target, ignore_index=255)
    )


# --- signals and faults --------------------------------------------------------------------------------------------


def after_steps(monkeypatch, number, do):
    """Do something after this many steps."""
    update = trainer.Progress.update

    def updated(self, n=1, **values):
        update(self, n, **values)
        if self.unit == "step" and self.done == number:
            do()

    monkeypatch.setattr(trainer.Progress, "update", updated)


SHORT = {"train": TRAIN | {"steps": 6}, "network": {"dropout": 0.1, "reduce_dropout": 0.5}}


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """An uninterrupted training with dropout, by two processes."""
    job = make_job(tmp_path_factory.mktemp("whole"), "train", inputs, **SHORT, runtime=TWO)
    train.run(job)
    return job


def equals(job, whole):
    assert rows(job) == rows(whole)
    learned = weights(whole)
    assert all(torch.equal(tensor, learned[name]) for name, tensor in weights(job).items())


def test_stopped_by_a_signal_and_resumed_equals_whole(inputs, whole, tmp_path, monkeypatch):
    job = make_job(tmp_path, "train", inputs, **SHORT, runtime=TWO)
    after_steps(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train.run(job)
    assert torch.load(job.state / "state.pt", weights_only=True)["step"] == 3
    assert not multiprocessing.active_children() and not (job.out / "weights.safetensors").exists()
    monkeypatch.undo()
    train.run(job)
    equals(job, whole)


@pytest.mark.slow
def test_killed_with_the_others_and_resumed_equals_whole(inputs, whole, tmp_path):
    job = make_job(tmp_path, "train", inputs, **SHORT, runtime=TWO | {"save_every": 1e-6})
    process = multiprocessing.get_context("fork").Process(target=train.run, args=(job,))
    process.start()
    log = job.out / "metrics.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        assert process.is_alive()
        time.sleep(0.01)
    others = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.join()
    assert others and not psutil.wait_procs(others, timeout=20)[1]
    train.run(job)
    equals(job, whole)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_job_with_a_sentence(inputs, whole, tmp_path, monkeypatch):
    job = make_job(tmp_path, "train", inputs, **SHORT, runtime=TWO | {"save_every": 1e-6})
    after_steps(monkeypatch, 3, lambda: multiprocessing.active_children()[0].kill())
    with pytest.raises(
        ChildProcessError, match=r"process 2 of the 2 .* status -9; run the same command again"
    ):
        train.run(job)
    assert not dist.is_initialized() and not (job.out / "weights.safetensors").exists()
    monkeypatch.undo()
    train.run(job)
    equals(job, whole)


def stuck(job, said):
    """A first process that does not notice that the other is killed, as if it waited for its GPU."""
    sys.stderr, processes.NOTICED = said.open("w"), 0.5
    update = trainer.Progress.update

    def updated(self, n=1, **values):
        update(self, n, **values)
        multiprocessing.active_children()[0].kill()
        time.sleep(60)

    trainer.Progress.update = updated
    train.run(job)


def test_a_process_that_waits_for_one_that_was_killed_ends_with_a_sentence(inputs, tmp_path):
    job = make_job(tmp_path, "train", inputs, **SHORT, runtime=TWO)
    process = multiprocessing.get_context("fork").Process(target=stuck, args=(job, tmp_path / "said"))
    process.start()
    process.join(50)
    assert process.exitcode == 1
    assert (
        (tmp_path / "said")
        .read_text()
        .splitlines()[-1]
        .startswith("i2r: process 2 of the 2 of this training")
    )


def test_the_sentence_of_another_process_is_said(inputs, tmp_path):
    """An image that only the second process reads is broken."""
    inputs = inputs | {"data": shutil.copytree(inputs["data"], tmp_path / "data")}
    job = make_job(tmp_path, "train", inputs, **SHORT, runtime=TWO)
    options = Train(**job.params["train"])
    drawn = [train.drawn_episode(job_lists(job), job.args, options, index) for index in range(4)]
    first = {name for one in drawn[:2] for name in (one.query, *one.supports)}
    broken = next(one.query for one in drawn[2:] if one.query not in first)
    for image in (tmp_path / "data").rglob(f"{broken}.jpg"):
        image.write_bytes(b"no image")
    with pytest.raises(InputError, match=broken):
        train.run(job)
    assert not multiprocessing.active_children() and not dist.is_initialized()


def test_a_loss_that_is_not_finite_ends_all_with_its_sentence(inputs, tmp_path):
    job = make_job(tmp_path, "train", inputs, train=TRAIN | {"lr": 1e30}, network=CALM, runtime=TWO)
    with pytest.raises(JobError, match=r"the loss is .* at step"):
        train.run(job)
    assert not multiprocessing.active_children() and not dist.is_initialized()


def test_a_batch_that_cannot_be_shared_has_a_sentence(inputs, tmp_path):
    job = make_job(tmp_path, "train", inputs, train=TRAIN, runtime={"processes": 3})
    with pytest.raises(InputError, match=r"runtime.processes: 3 processes cannot share train.batch 4 evenly"):
        train.run(job)


def test_other_norms_have_a_sentence():
    with pytest.raises(InputError, match=r"runtime.processes: the network's 1 is a BatchNorm1d"):
        norm_whole_batches(nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm1d(2)))


@pytest.mark.parametrize("value", [{"cuda_graphs": True}, {"device": "cuda:1"}])
def test_values_that_do_not_go_with_processes(value):
    with pytest.raises(ValueError, match=next(iter(value))):
        Runtime(**TWO, **value)
    assert Runtime(**value).processes == 1
