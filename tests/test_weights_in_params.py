"""Weights that params name: evaluated as they are, or what training starts from; keys go by content."""

import copy
import json
import shutil

import networks
import pytest
import torch
from learning import make_job, prepare, sections
from safetensors.torch import load_file, save_file
from test_checkpoints import saved

from i2r import predict
from i2r.config import schema as params
from i2r.config.schema import ParamsError
from i2r.nets.io.published import import_checkpoint, published_options
from i2r.nets.pspnet import PSPHead
from i2r.pipeline import plan
from i2r.pipeline.jobs import JobError, sections_of
from i2r.steps import base_learner, cam_head, evaluate, train

RELEASED = {**published_options("i2r-released"), "blocks": 6, "cross": 5, "ensemble": True}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    source = saved(folder / "i2r.ckpt", networks.checkpoint("i2r-released"))
    import_checkpoint("i2r-released", source, folder / "i2r.safetensors", size=97)
    return folder / "i2r.safetensors"


# --- the plan ------------------------------------------------------------------------------------------------


@pytest.fixture
def values(tmp_path):
    """Params with a method of each kind, and the files that they name."""
    for fold in (0, 1):
        for name in ("a", "b"):
            (tmp_path / f"{name}{fold}.safetensors").write_bytes(f"{name}{fold}".encode())
    values = sections(run={"folds": [0, 1], "shots": [1, 5], "methods": ["whole", "on", "five"]})
    values["ablate"]["methods"] = []
    values["methods"] |= {
        "whole": {"weights": str(tmp_path / "a{fold}.safetensors")},
        "on": {"start": str(tmp_path / "b{fold}.safetensors")},
        "five": {"start": "1shot"},
    }
    values["data"]["min_class_images"] = 6
    return values


def jobs(values, step):
    made = plan.make_plan(params.check(copy.deepcopy(values))).jobs
    return {(s["args"]["method"], s["args"]["shot"], s["args"]["fold"]): s for s in made if s["step"] == step}


def test_what_is_trained_and_from_what(values, tmp_path):
    trained, evaluated = jobs(values, "train"), jobs(values, "evaluate")
    assert {method for method, *_ in trained} == {"on", "five"}
    assert evaluated.keys() - trained.keys() == {("whole", k, f) for k in (1, 5) for f in (0, 1)}
    assert evaluated["whole", 1, 1]["files"] == {"method.weights": str(tmp_path / "a1.safetensors")}
    assert trained["on", 1, 0]["files"] == {"method.start": str(tmp_path / "b0.safetensors")}
    assert trained["five", 5, 0]["inputs"]["start"] == trained["five", 1, 0]["folder"]
    assert "start" not in trained["five", 1, 0]["inputs"]
    plain = copy.deepcopy(values)
    plain["methods"]["five"] = {}
    assert jobs(plain, "train")["five", 1, 0]["key"] == trained["five", 1, 0]["key"]
    assert jobs(plain, "train")["five", 5, 0]["key"] != trained["five", 5, 0]["key"]
    only = copy.deepcopy(values)
    only["run"]["shots"] = [5]
    assert jobs(only, "train")["five", 1, 0]["key"] == trained["five", 1, 0]["key"]


def test_keys_go_by_content(values, tmp_path):
    def keys():
        made = plan.make_plan(params.check(copy.deepcopy(values))).jobs
        return {(s["step"], s["name"]): s["key"] for s in made}

    before = keys()
    (tmp_path / "moved").mkdir()
    for fold in (0, 1):
        shutil.copy(tmp_path / f"a{fold}.safetensors", tmp_path / "moved")
    values["methods"]["whole"]["weights"] = str(tmp_path / "moved/a{fold}.safetensors")
    assert keys() == before
    (tmp_path / "moved/a1.safetensors").write_bytes(b"other")
    changed = {name for name, key in keys().items() if key != before[name]}
    assert {step for step, _ in changed} == {"evaluate", "report"}
    assert all("whole" in name and "fold1" in name for step, name in changed if step == "evaluate")


def test_missing_and_changed_files_are_named(values, tmp_path):
    spec = jobs(values, "train")["on", 1, 0]
    assert sections_of(spec)["method"]["start"] == str(tmp_path / "b0.safetensors")
    (tmp_path / "b0.safetensors").write_bytes(b"other")
    with pytest.raises(JobError, match=r"b0\.safetensors: missing, or another file"):
        sections_of(spec)
    (tmp_path / "b0.safetensors").unlink()
    with pytest.raises(ParamsError, match=r"methods\.on\.start: no such file: .*b0\.safetensors"):
        jobs(values, "train")
    values["methods"]["on"]["start"] = "{backbone}.safetensors"
    with pytest.raises(
        ParamsError, match=r"methods\.on\.start: .*may hold \{fold\}, \{shot\} and \{seed\} only"
    ):
        jobs(values, "train")
    values["methods"]["on"]["weights"] = "a"
    with pytest.raises(ParamsError, match="weights and start: take one"):
        jobs(values, "train")
    del values["methods"]["on"]
    values["run"]["methods"] = ["five"]
    values["base_learner"]["weights"] = "none{fold}.safetensors"
    with pytest.raises(ParamsError, match=r"base_learner\.weights: no such file: none0\.safetensors"):
        jobs(values, "train")


# --- the jobs ------------------------------------------------------------------------------------------------


def test_an_imported_network_is_evaluated_like_one_that_was_trained_here(inputs, imported, tmp_path):
    method = {**RELEASED, "weights": str(imported)}
    job = make_job(tmp_path, "evaluate", inputs, method=method)
    evaluate.run(job)
    scores = json.loads((job.out / "scores.json").read_text())
    assert scores["episodes"] == 12 and 0 <= scores["miou"] <= 100 and len(scores["mask_ratio"]) == 5
    read = {int(c) for counts in scores["cam_classes"].values() for c in counts}
    assert max(read) >= 20, "classes of its own classifier with 1000, not of the small backbone's 20"
    network = predict.load(imported, device="cpu").network
    alone = evaluate.job_encoder(job, torch.device("cpu"))
    assert all(
        torch.equal(a, b) for a, b in zip(network.encoder.parameters(), alone.parameters(), strict=True)
    )


def test_training_starts_from_an_imported_network(inputs, imported, tmp_path):
    changes = {"method": {**RELEASED, "start": str(imported)}, "train": {"steps": 1, "lr": 1e-9, "batch": 2}}
    job = make_job(tmp_path, "train", inputs, **changes)
    train.run(job)
    learned, start = load_file(job.out / "weights.safetensors"), load_file(imported)
    assert {f"head.{name}" for name in learned} == {name for name in start if name.startswith("head.")}
    for name, tensor in learned.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, start[f"head.{name}"], atol=1e-6, rtol=1e-6)
    scored = make_job(tmp_path, "evaluate", {**inputs, "train": job.out}, **changes)
    evaluate.run(scored)
    assert json.loads((scored.out / "scores.json").read_text())["episodes"] == 12


def test_several_shots_start_from_one(inputs, tmp_path):
    one = make_job(tmp_path, "train", inputs, name="one", method={"shot_weights": "gram"})
    train.run(one)
    job = make_job(
        tmp_path,
        "train",
        {**inputs, "start": one.out},
        name="three",
        method={"shot_weights": "gram", "start": "1shot"},
        train={"lr": 1e-9, "steps": 1},
    )
    job.args["shot"] = 3
    train.run(job)
    before, after = (load_file(j.out / "weights.safetensors") for j in (one, job))
    assert after.keys() - before.keys() == {f"kshot_rw.{n}.{p}" for n in (0, 2) for p in ("weight", "bias")}
    name = "decoder.Q_block.0.Wq.weight"
    torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=1e-6)


def test_a_base_learner_of_elsewhere_is_scored_and_brings_its_backbone(inputs, tmp_path):
    base = {role: inputs[role] for role in ("data", "lists", "backbone")}
    backbone = load_file(inputs["backbone"] / "weights.safetensors")
    torch.manual_seed(1)
    other = {name: t + 0.01 if name.endswith("conv1.weight") else t for name, t in backbone.items()}
    save_file({**other, **PSPHead(128, 15, 16).state_dict()}, tmp_path / "base.safetensors")
    changes = {"base_learner": {"weights": str(tmp_path / "base.safetensors")}}
    job = make_job(tmp_path, "base_learner", base, **changes)
    metrics = base_learner.run(job)
    assert metrics["images"] > 0 and (job.out / "scores.json").is_file()
    head = make_job(tmp_path, "cam_head", {**base, "base_learner": job.out}, **changes)
    cam_head.run(head)  # the file has a classifier that fits its backbone
    assert torch.equal(load_file(head.out / "weights.safetensors")["fc.weight"], backbone["fc.weight"])
    save_file(PSPHead(128, 3, 16).state_dict(), tmp_path / "base.safetensors")
    with pytest.raises(JobError, match="is made for 3 classes, the fold has 15"):
        base_learner.run(job)
