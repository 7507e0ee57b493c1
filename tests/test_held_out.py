"""Validation of the meta learner during its training, on held-out episodes of training classes."""

import json

import fake_jobs
import pytest
import torch
from learning import BAM, make_job, prepare, run_params
from safetensors.torch import load_file
from test_data_lists import index, rule
from test_pipeline import keys, planned
from test_train import lines, same, stop_at, weights

from i2r.config.base import ParamsError
from i2r.data.lists import held_out
from i2r.engine.held_out import held_out_draws
from i2r.engine.inputs import job_dataset, job_encoder, job_lists
from i2r.engine.trainer import set_up
from i2r.errors import InputError
from i2r.pipeline import store
from i2r.steps import evaluate, train

TWICE = {"validate_every": 0.5, "validation_episodes": 10, "batch": 4, "steps": 12, "lr": 0.05}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory):
    job = make_job(tmp_path_factory.mktemp("done"), "train", inputs, train=TWICE)
    return job, train.run(job)


def validations(job):
    return {row["step"]: row["validation_miou"] for row in lines(job) if "validation_miou" in row}


def test_held_out_images_show_training_classes_and_no_test_class():
    val = {
        "six": {"6": 200},
        "six and seven": {"6": 200, "7": 200},
        "seven, and a speck of six": {"6": 1, "7": 200},
        "six and a test class": {"6": 200, "1": 1},
        "a test class": {"1": 200},
        "small": {"6": 99},
    }
    lists = rule(index({"training": {"6": 200}}, val), 0, draw="present")
    made = held_out(index({}, val), lists | {"vanished": {"6": ["training"]}})
    assert made["train"] == ["six", "six and seven", "seven, and a speck of six"]
    assert made["train_by_class"]["6"] == ["six", "six and seven"]
    assert made["train_of"]["seven, and a speck of six"] == [6, 7]
    assert made["test"] == lists["test"] and not made["vanished"]


def test_held_out_episodes_are_balanced_and_leave_out_their_class(inputs, tmp_path):
    job = make_job(tmp_path, "train", inputs)
    images, lists = job_dataset(job).index, job_lists(job)
    draws = held_out_draws(images, lists, 40, 2)
    assert draws == held_out_draws(images, lists, 40, 2)
    for draw in draws:
        assert lists["train_classes"][draw.base_class] == draw.cls
        for view in draw.views:
            assert view.id in images["val"] and view.id not in images["train"]
            assert str(draw.cls) in images["val"][view.id]
            assert not set(images["val"][view.id]) & set(map(str, lists["test_classes"]))
    with pytest.raises(InputError, match=r"train\.validate_every: fold 0 has at most \d+ validation images"):
        held_out_draws(images, lists, 40, 500)


def test_validations_twice_an_epoch():
    values = run_params(train=TWICE).train
    assert values.validations(16) == (2, 4, 6, 8, 10, 12)
    assert values.validations(18) == (2, 4, 6, 9, 11, 12)
    assert values.model_copy(update={"validate_every": 2.0}).validations(16) == (8, 12)
    assert values.model_copy(update={"validate_every": 0.5}).validations(1) == (1, *range(2, 13))[:12]


def test_a_validation_changes_nothing_in_the_training(inputs, done, tmp_path):
    job, metrics = done
    images = len(job_lists(job)["train"])
    found = validations(job)
    assert tuple(found) == run_params(train=TWICE).train.validations(images)
    assert len(found) > 1 and all(0 <= score <= 100 for score in found.values())
    assert metrics["best_step"] == max(found, key=lambda step: (found[step], -step))
    plain = make_job(tmp_path, "train", inputs, train=TWICE | {"validate_every": 0})
    train.run(plain)
    same(weights(plain), weights(job))
    assert not (plain.out / "best.safetensors").exists() and not validations(plain)
    losses = [(row["step"], row["loss"]) for row in lines(job)]
    assert losses == [(row["step"], row["loss"]) for row in lines(plain)]  # a line a step


@pytest.mark.parametrize("network", [{}, BAM])
def test_best_and_last_weights_are_kept_and_evaluated(inputs, tmp_path, network):
    job = make_job(tmp_path, "train", inputs, network=network, train=TWICE)
    metrics, found = train.run(job), validations(job)
    sections = run_params(network=network, train=TWICE)
    device = set_up(job.runtime, job.threads)
    encoder = job_encoder(job, device, sections.network)
    for checkpoint, step in (("last", 12), ("best", metrics["best_step"])):
        options = {"network": network, "train": TWICE, "evaluate": {"checkpoint": checkpoint}}
        other = make_job(tmp_path, "evaluate", {**inputs, "train": job.out}, name=checkpoint, **options)
        meta_learner = evaluate.evaluated_network(other, sections.network, encoder)
        score = train.validated(job, encoder, sections.network, sections.train, meta_learner, device)
        assert score() == pytest.approx(found[step])
    assert metrics["best_step"] < 12  # so that the two are not the same


@pytest.mark.parametrize("views", [0, 1])
def test_killed_and_resumed_and_with_other_workers_equals_whole(inputs, tmp_path, monkeypatch, views):
    options = TWICE | {"augment": {"views": views}}
    through = make_job(tmp_path, "train", inputs, name="through", train=options)
    train.run(through)
    job = make_job(tmp_path, "train", inputs, train=options, runtime={"workers": 2})
    stop_at(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        train.run(job)
    monkeypatch.undo()
    train.run(job)
    for file in ("weights", "best"):
        same(load_file(job.out / f"{file}.safetensors"), load_file(through.out / f"{file}.safetensors"))
    assert lines(job) == lines(through)


def test_the_score_is_that_of_perfect_and_empty_predictions(inputs, tmp_path):
    job = make_job(tmp_path, "train", inputs)
    sections = run_params()
    encoder = job_encoder(job, torch.device("cpu"), sections.network)
    values = sections.train.model_copy(update={"validation_episodes": 9})

    class Predicts(torch.nn.Module):
        def __init__(self, truth):
            super().__init__()
            self.truth = truth

        def forward(self, inputs):
            found = (inputs.mask_q == 1).float() * self.truth
            return type("Output", (), {"final_logits": torch.stack([1 - found, found], 1)})

    for truth, expected in ((1, 100), (0, 0)):
        score = train.validated(job, encoder, sections.network, values, Predicts(truth), torch.device("cpu"))
        assert score() == pytest.approx(expected)


def test_what_is_planned():
    plain = planned()
    validated = planned(train={"validate_every": 0.5})
    assert keys(planned(train={"validation_episodes": 7}), "train") == keys(plain, "train")
    assert not keys(validated, "train") & keys(plain, "train")
    assert keys(validated, "base_learner") == keys(plain, "base_learner")
    both = planned(
        methods={"i2r-best": {"evaluate": {"checkpoint": "best"}}},
        targets={"table1": {"methods": ["i2r", "i2r-best"]}},
        train={"validate_every": 0.5},
    ).named()
    last, best = (both[f"tiny/train/{name}-1shot-fold0-seed0"] for name in ("i2r", "i2r-best"))
    assert last == best and last.products[-1] == "best.safetensors" and last.products[-1] in store.OURS
    last, best = (both[f"tiny/evaluate/{name}-1shot-fold0-seed0-eval0"] for name in ("i2r", "i2r-best"))
    assert last.key != best.key and "checkpoint" not in last.params["evaluate"]
    for train_ in ({}, {"validate_every": 0.5, "weights": "a.safetensors"}):
        with pytest.raises(ParamsError, match="checkpoint: best needs a training with validations"):
            run_params(train=train_, evaluate={"checkpoint": "best"})


def test_the_report_draws_the_validations(tmp_path, monkeypatch):
    plain = fake_jobs.lines

    def with_scores(steps, rng, floor=0.5):
        rows = [json.loads(line) for line in plain(steps, rng, floor).splitlines()]
        for row in rows[9::10]:
            row["validation_miou"] = 40 + row["step"] / 50
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    monkeypatch.setattr(fake_jobs, "lines", with_scores)
    home = fake_jobs.report(tmp_path / "results")
    assert (home / "figures" / "validation.png").stat().st_size > 10000
    assert "mIoU of held-out episodes of training classes" in (home / "report.html").read_text()
    assert "validation_miou" in (home / "curves.csv").read_text().splitlines()[0]
