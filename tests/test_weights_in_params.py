"""Weights files in params: evaluated, or used to start a training; keys depend on their content."""

import json
import shutil
from pathlib import Path

import networks
import pytest
import torch
from learning import make_job, prepare
from safetensors.torch import load_file, save_file
from test_checkpoints import saved
from test_pipeline import planned

from i2r import predict
from i2r.config.base import ParamsError
from i2r.nets.io.published import import_checkpoint, published_options
from i2r.nets.pspnet import PSPNet
from i2r.pipeline.jobs import _sections
from i2r.pipeline.plan import Plan
from i2r.pipeline.spec import JobError
from i2r.steps import base_learner, cam_head, evaluate, train

RELEASED = {**published_options("i2r-released"), "name": "i2r", "blocks": 6, "cross": 5, "ensemble": True}


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


def plan_of(folder: Path, **methods) -> Plan:
    """A plan with a method of each kind, in two folds and with one and five shots."""
    kinds = {
        "whole": {"train": {"weights": f"{folder}/a{{fold}}.safetensors"}},
        "on": {"train": {"start": f"{folder}/b{{fold}}.safetensors"}},
        "five": {"train": {"start": "1shot"}},
    }
    kinds |= methods
    target = {"methods": ["whole", "on", "five"], "folds": [0, 1], "shots": [1, 5], "baselines": None}
    return planned(methods=kinds, targets={"table1": target}, make=["table1"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for fold in (0, 1):
        for name in ("a", "b"):
            (tmp_path / f"{name}{fold}.safetensors").write_bytes(f"{name}{fold}".encode())
    return tmp_path


def test_what_is_trained_and_from_what(folder: Path):
    made = plan_of(folder)
    named = {view: spec for spec in made.of("all") for view in made.views(spec.key)}
    trained = {name.split("/")[-1].split("-")[0] for name in named if "/train/" in name}
    assert {"on", "five"} <= trained and "whole" not in trained
    whole = named["tiny/evaluate/whole-1shot-fold1-seed0-eval0"]
    assert whole.files == {"train.weights": f"{folder}/a1.safetensors"} and "train" not in whole.inputs
    assert named["tiny/train/on-1shot-fold0-seed0"].files == {"train.start": f"{folder}/b0.safetensors"}
    one, five = (named[f"tiny/train/five-{shot}shot-fold0-seed0"] for shot in (1, 5))
    assert five.inputs["start"].key == one.key and "start" not in one.inputs
    plain = plan_of(folder, five={}).named()
    assert plain["tiny/train/five-1shot-fold0-seed0"].key == one.key
    assert plain["tiny/train/five-5shot-fold0-seed0"].key != five.key


def test_keys_go_by_content(folder: Path):
    before = {name: spec.key for name, spec in plan_of(folder).named().items()}
    (folder / "moved").mkdir()
    for fold in (0, 1):
        shutil.copy(folder / f"a{fold}.safetensors", folder / "moved")
    moved = {"whole": {"train": {"weights": f"{folder}/moved/a{{fold}}.safetensors"}}}
    after = {name: spec.key for name, spec in plan_of(folder, **moved).named().items()}
    assert not {name for name, key in after.items() if key != before[name] and "/evaluate/" in name}
    (folder / "moved/a1.safetensors").write_bytes(b"other")
    after = {name: spec.key for name, spec in plan_of(folder, **moved).named().items()}
    changed = {name for name, key in after.items() if key != before[name] and "/evaluate/" in name}
    assert changed == {f"tiny/evaluate/whole-{shot}shot-fold1-seed0-eval0" for shot in (1, 5)}


def test_missing_and_changed_files_are_named(folder: Path):
    spec = plan_of(folder).named()["tiny/train/on-1shot-fold0-seed0"]
    assert _sections(spec)["train"]["start"] == f"{folder}/b0.safetensors"
    (folder / "b0.safetensors").write_bytes(b"other")
    with pytest.raises(JobError, match=r"b0\.safetensors: missing, or changed since"):
        _sections(spec)
    (folder / "b0.safetensors").unlink()
    with pytest.raises(ParamsError, match=r"methods\.on\.train\.start: no such file: .*b0\.safetensors"):
        plan_of(folder)
    for wrong, sentence in (
        ({"start": "{backbone}.safetensors"}, r"may contain only \{fold\}, \{shot\}, \{seed\}"),
        ({"start": "a", "weights": "b"}, "weights and start: give only one"),
    ):
        with pytest.raises(ParamsError, match=sentence):
            plan_of(folder, on={"train": wrong})
    with pytest.raises(ParamsError, match=r"base_learner\.weights: no such file: none0\.safetensors"):
        planned(base_learner={"weights": "none{fold}.safetensors"})


# --- the jobs ------------------------------------------------------------------------------------------------


def test_an_imported_network_is_evaluated_like_one_that_was_trained_here(inputs, imported, tmp_path):
    job = make_job(tmp_path, "evaluate", inputs, network=RELEASED, train={"weights": str(imported)})
    evaluate.run(job)
    scores = json.loads((job.out / "scores.json").read_text())
    assert scores["episodes"] == 12 and 0 <= scores["miou"] <= 100 and len(scores["mask_ratio"]) == 5
    read = {int(c) for counts in scores["cam_classes"].values() for c in counts}
    assert max(read) >= 20, "classes of its own classifier with 1000, not of the small backbone's 20"
    network = predict.load(imported, device="cpu").network
    alone = evaluate.job_encoder(job, torch.device("cpu"), evaluate.evaluation_options(job))
    assert all(
        torch.equal(a, b) for a, b in zip(network.encoder.parameters(), alone.parameters(), strict=True)
    )


def test_training_starts_from_an_imported_network(inputs, imported, tmp_path):
    changes = {"network": RELEASED, "train": {"start": str(imported), "steps": 1, "lr": 1e-9, "batch": 2}}
    job = make_job(tmp_path, "train", inputs, **changes)
    train.run(job)
    learned, start = load_file(job.out / "weights.safetensors"), load_file(imported)
    assert set(learned) == set(start), "a network file again, because its meta learner fits no other encoder"
    for name, tensor in learned.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, start[name], atol=1e-6, rtol=1e-6)
    scored = make_job(tmp_path, "evaluate", {**inputs, "train": job.out}, **changes)
    evaluate.run(scored)
    assert json.loads((scored.out / "scores.json").read_text())["episodes"] == 12


def test_several_shots_start_from_one(inputs, tmp_path):
    one = make_job(tmp_path, "train", inputs, name="one", network={"shot_weights": "gram"})
    train.run(one)
    job = make_job(
        tmp_path,
        "train",
        {**inputs, "start": one.out},
        name="three",
        network={"shot_weights": "gram"},
        train={"start": "1shot", "lr": 1e-9, "steps": 1},
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
    save_file({**other, **PSPNet(128, 15, 16).state_dict()}, tmp_path / "base.safetensors")
    changes = {
        "base_learner": {"weights": str(tmp_path / "base.safetensors"), "trains": "all"},
        "cam_head": {"mode": "untouched"},
    }
    job = make_job(tmp_path, "base_learner", base, **changes)
    metrics = base_learner.run(job)
    assert metrics["images"] > 0 and (job.out / "scores.json").is_file()
    head = make_job(tmp_path, "cam_head", {**base, "base_learner": job.out}, **changes)
    cam_head.run(head)  # the file has a classifier that fits its backbone
    assert torch.equal(load_file(head.out / "weights.safetensors")["fc.weight"], backbone["fc.weight"])
    save_file(PSPNet(128, 3, 16).state_dict(), tmp_path / "base.safetensors")
    with pytest.raises(JobError, match="is for 3 classes, but the fold has 15"):
        base_learner.run(job)
