"""The checkpoints that a training keeps (train.checkpoints), and their scores (evaluate.checkpoint: all)."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from learning import make_job, prepare, run_params
from safetensors.torch import load_file
from test_evaluate import hooked, read, table, without_times
from test_held_out import TWICE
from test_pipeline import keys, planned
from test_train import lines, same, stop_at, weights

from i2r.config.base import ParamsError
from i2r.engine import episode_loop
from i2r.engine.feature_cache import CachedEncoder
from i2r.metrics.segmentation import Counts
from i2r.pipeline import store
from i2r.steps import evaluate, train

KEEPS = TWICE | {"checkpoints": 3}
STEPS = (3, 6, 9)
ALL = {"checkpoint": "all"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def kept(inputs, tmp_path_factory):
    job = make_job(tmp_path_factory.mktemp("kept"), "train", inputs, train=KEEPS)
    train.run(job)
    return job


def marks_half(network, inputs, output):
    """Shift logits so that half of each query is marked, for after a few steps a network marks nothing."""
    lead = output.final_logits[:, 0] - output.final_logits[:, 1]
    output.final_logits[:, 1] += lead.flatten(1).median(1).values[:, None, None]


@pytest.fixture(autouse=True)
def _marking(monkeypatch):
    build = evaluate.build_meta_learner
    monkeypatch.setattr(evaluate, "build_meta_learner", lambda *args: hooked(build(*args), marks_half))


def evaluation(folder, inputs, kept, name="evaluate", **options):
    return make_job(folder, "evaluate", {**inputs, "train": kept.out}, name=name, train=KEEPS, **options)


def counted(job):
    """checkpoint -> pixel counts of each episode (E, 4)"""
    found = pd.read_csv(job.out / "checkpoints.csv", dtype={"checkpoint": str})
    return {
        name: rows.sort_values("index")[list(Counts._fields)].to_numpy()
        for name, rows in found.groupby("checkpoint")
    }


def test_evenly_spaced_weights_are_kept_and_change_nothing_else(inputs, kept, tmp_path):
    files = sorted(file.name for file in (kept.out / "checkpoints").iterdir())
    assert files == [f"{step}.safetensors" for step in STEPS]
    plain = make_job(tmp_path, "train", inputs, train=KEEPS | {"checkpoints": 0})
    train.run(plain)
    same(weights(plain), weights(kept))
    assert lines(plain) == lines(kept) and not (plain.out / "checkpoints").exists()


def test_a_kept_checkpoint_is_the_state_after_that_many_steps(inputs, kept, tmp_path, monkeypatch):
    """It is compared with the weights of a training that a signal stops there."""
    job = make_job(tmp_path, "train", inputs, train=KEEPS)
    stop_at(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        train.run(job)
    state = torch.load(job.state / "state.pt", weights_only=True)
    assert state["step"] == 6
    same(load_file(kept.out / "checkpoints/6.safetensors"), state["model"])


def test_killed_at_any_time_and_resumed_equals_whole(inputs, kept, tmp_path, monkeypatch):
    """Also if what was kept is newer than the saved state, and if a file was left half written."""
    job = make_job(tmp_path, "train", inputs, train=KEEPS)
    stop_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        train.run(job)
    monkeypatch.undo()
    (job.state / "checkpoints/.6-half.safetensors").write_bytes(b"half")
    save = train.save_trained

    def killed(*given):
        save(*given)
        if given[-1].name == "6.safetensors":
            raise ZeroDivisionError  # as kill -9, without a saved state

    monkeypatch.setattr(train, "save_trained", killed)
    with pytest.raises(ZeroDivisionError):
        train.run(job)
    monkeypatch.undo()
    train.run(job)
    for file in (kept.out / "checkpoints").iterdir():
        same(load_file(file), load_file(job.out / "checkpoints" / file.name))
    assert len(list((job.out / "checkpoints").iterdir())) == len(STEPS)
    same(weights(job), weights(kept))


@pytest.mark.parametrize(
    "steps, checkpoints, expected", [(12, 9, (1, 2, 3, 4, 6, 7, 8, 9, 10)), (1, 3, ()), (4, 9, (1, 2, 3))]
)
def test_which_steps_are_kept(steps, checkpoints, expected):
    options = run_params(train={"steps": steps, "checkpoints": checkpoints}).train
    assert options.kept_steps() == expected


@pytest.mark.parametrize("tta", ["none", "scales"])
def test_all_are_scored_as_each_alone_with_features_made_once(inputs, kept, tmp_path, monkeypatch, tta):
    how = {"scoring": "original", "tta": tta}
    job = evaluation(tmp_path, inputs, kept, evaluate=how | ALL)
    asked = []
    make_inputs = CachedEncoder.inputs
    monkeypatch.setattr(
        CachedEncoder, "inputs", lambda self, draws: asked.append(1) or make_inputs(self, draws)
    )
    evaluate.run(job)
    chunks, pictures = -(-12 // episode_loop.CHUNK), 3
    assert len(asked) == (chunks + pictures) * (1 if tta == "none" else 3)
    found = counted(job)
    assert set(found) == {"3", "6", "9", "best", "last"}
    for name in found:
        alone = evaluation(
            tmp_path, inputs, kept, name, evaluate=how | {"checkpoint": "best" if name == "best" else "last"}
        )
        if name.isdigit():
            monkeypatch.setattr(evaluate, "WEIGHTS", f"checkpoints/{name}.safetensors")
        evaluate.run(alone)
        monkeypatch.setattr(evaluate, "WEIGHTS", "weights.safetensors")
        counts = np.array([[int(row[count]) for count in Counts._fields] for row in table(alone)])
        assert (found[name] == counts).all(), name
        if name == "last":
            assert table(job) == table(alone) and without_times(read(job)) == without_times(read(alone))
    assert len({counts.tobytes() for counts in found.values()}) > 2


def test_an_interrupted_evaluation_of_all_continues(inputs, kept, tmp_path, monkeypatch):
    through = evaluation(tmp_path, inputs, kept, "through", evaluate=ALL)
    evaluate.run(through)
    job = evaluation(tmp_path, inputs, kept, evaluate=ALL)
    update = episode_loop.Progress.update

    def stop(self, n=1, **values):
        update(self, n, **values)
        if self.unit == "episode":
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(episode_loop.Progress, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate.run(job)
    evaluate.run(job)
    assert (job.out / "checkpoints.csv").read_text() == (through.out / "checkpoints.csv").read_text()


def test_the_time_of_an_episode_is_that_of_one_checkpoint(inputs, kept, tmp_path, monkeypatch):
    job = evaluation(tmp_path, inputs, kept, evaluate=ALL)
    count = evaluate.count_kept

    def slow(*given):
        count(*given)
        given[-1]["kept_seconds"] += 1000
        given[-1]["seconds"] += 1000

    monkeypatch.setattr(evaluate, "count_kept", slow)
    evaluate.run(job)
    assert 0 < read(job)["seconds_per_episode"] < 50


def test_what_is_planned():
    plain = planned()
    assert keys(planned(train={"checkpoints": 0}), "train") == keys(plain, "train")
    made = planned(
        methods={"i2r-kept": {"train": {"checkpoints": 3}, "evaluate": ALL}},
        targets={"table1": {"methods": ["i2r", "i2r-kept"]}},
    ).named()
    usual, kept = (made[f"tiny/train/{name}-1shot-fold0-seed0"] for name in ("i2r", "i2r-kept"))
    assert usual.key != kept.key and "checkpoints" not in usual.params["train"]
    assert kept.products == (*usual.products, "checkpoints") and "checkpoints" in store.OURS
    usual, kept = (made[f"tiny/evaluate/{name}-1shot-fold0-seed0-eval0"] for name in ("i2r", "i2r-kept"))
    assert kept.products == (*usual.products, "checkpoints.csv") and "checkpoints.csv" in store.OURS
    controls = made["tiny/controls/i2r-kept-1shot-fold0-seed0-eval0"]
    assert "checkpoints.csv" not in controls.products
    for options in ({}, {"checkpoints": 3, "weights": "a.safetensors"}):
        with pytest.raises(ParamsError, match="checkpoint: all needs a training that keeps checkpoints"):
            run_params(train=options, evaluate=ALL)
