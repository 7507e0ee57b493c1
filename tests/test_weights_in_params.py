"""Weights that params name: evaluated as they are, or what training starts from; keys go by content."""

import copy
import json
import shutil

import networks
import pytest
import torch
from learning import BAM, ROOT, make_job, prepare
from safetensors.torch import load_file, save_file
from test_checkpoints import saved

from i2r.config.base import ParamsError
from i2r.config.load import read, resolve
from i2r.nets.io.network_file import open_network, read_about
from i2r.nets.io.published import import_checkpoint, published_options
from i2r.nets.pspnet import PSPNet
from i2r.pipeline.jobs import JobError
from i2r.pipeline.plan import make_plan
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
    methods = {
        "plain": {},
        "whole": {"train": {"weights": str(tmp_path / "a{fold}.safetensors")}},
        "on": {"train": {"start": str(tmp_path / "b{fold}.safetensors")}},
        "five": {"train": {"start": "1shot"}},
    }
    target = {"methods": ["whole", "on", "five"], "folds": [0, 1], "shots": [1, 5]}
    return {**read(ROOT / "params.yaml"), "methods": methods, "targets": {"table1": target}}


def planned(values):
    return make_plan(resolve([("test", copy.deepcopy(values))]))


def jobs(values, step):
    """(method, shot, fold) -> spec."""
    plan = planned(values)
    rows = plan.jobs[plan.targets["table1"][-1]].params["runs"]
    found = {}
    for row in rows:
        if role := row[step]:
            found[row["method"], row["shot"], row["fold"]] = plan.jobs[role.split("/")[1]]
    return found


def test_what_is_trained_and_from_what(values, tmp_path):
    trained, evaluated = jobs(values, "train"), jobs(values, "evaluate")
    assert {method for method, *_ in trained} == {"on", "five"}
    assert evaluated.keys() - trained.keys() == {("whole", k, f) for k in (1, 5) for f in (0, 1)}
    assert evaluated["whole", 1, 1].files == {"train.weights": str(tmp_path / "a1.safetensors")}
    assert trained["on", 1, 0].files == {"train.start": str(tmp_path / "b0.safetensors")}
    assert trained["five", 5, 0].inputs["start"].key == trained["five", 1, 0].key
    assert "start" not in trained["five", 1, 0].inputs
    values["targets"]["table1"]["methods"] = ["plain", "five"]
    both = jobs(values, "train")
    assert both["plain", 1, 0].key == both["five", 1, 0].key == trained["five", 1, 0].key
    assert both["plain", 5, 0].key != both["five", 5, 0].key


def test_keys_go_by_content(values, tmp_path):
    def keys():
        return {name: spec.key for name, spec in jobs(values, "evaluate").items()}

    before = keys()
    (tmp_path / "moved").mkdir()
    for fold in (0, 1):
        shutil.copy(tmp_path / f"a{fold}.safetensors", tmp_path / "moved")
    values["methods"]["whole"]["train"]["weights"] = str(tmp_path / "moved/a{fold}.safetensors")
    assert keys() == before
    (tmp_path / "moved/a1.safetensors").write_bytes(b"other")
    changed = {name for name, key in keys().items() if key != before[name]}
    assert changed == {("whole", 1, 1), ("whole", 5, 1)}


def test_what_cannot_be_is_named(values, tmp_path):
    (tmp_path / "b0.safetensors").unlink()
    with pytest.raises(ParamsError, match=r"methods\.on\.train\.start: no such file: .*b0\.safetensors"):
        planned(values)
    values["methods"]["on"]["train"]["weights"] = "a"
    with pytest.raises(ParamsError, match="weights and start: take one"):
        planned(values)
    values["methods"]["on"]["train"] = {"start": "{backbone}.safetensors"}
    with pytest.raises(ParamsError, match=r"train\.start: .*may hold \{fold\}, \{shot\}, \{seed\} only"):
        planned(values)


# --- the jobs ------------------------------------------------------------------------------------------------


def test_an_imported_network_is_evaluated_like_one_that_was_trained_here(inputs, imported, tmp_path):
    job = make_job(tmp_path, "evaluate", inputs, network=RELEASED, train={"weights": str(imported)})
    evaluate.run(job)
    scores = json.loads((job.out / "scores.json").read_text())
    assert scores["episodes"] == 12 and 0 <= scores["miou"] <= 100 and len(scores["mask_ratio"]) == 5
    read_classes = {int(c) for counts in scores["cam_classes"].values() for c in counts}
    assert max(read_classes) >= 20, "classes of its own classifier with 1000, not of the small backbone's 20"
    own, found = (
        open_network(imported).encoder,
        evaluate.job_encoder(job, torch.device("cpu"), evaluate.evaluation_options(job)),
    )
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), found.parameters(), strict=True))


def test_training_starts_from_an_imported_network(inputs, imported, tmp_path):
    """What is written is a whole network again: the file it started from is needed no more."""
    once = {"steps": 1, "lr": 1e-9, "batch": 2}
    job = make_job(tmp_path, "train", inputs, network=RELEASED, train={**once, "start": str(imported)})
    train.run(job)
    learned, start = load_file(job.out / "weights.safetensors"), load_file(imported)
    assert learned.keys() == start.keys()
    assert read_about(job.out / "weights.safetensors")["shots"] == 1
    for name, tensor in learned.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, start[name], atol=1e-6, rtol=1e-6)
    scored = make_job(tmp_path, "evaluate", {**inputs, "train": job.out}, network=RELEASED)
    evaluate.run(scored)
    assert json.loads((scored.out / "scores.json").read_text())["episodes"] == 12


def test_several_shots_start_from_one(inputs, tmp_path):
    gram = {"shot_weights": "gram"}
    one = make_job(tmp_path, "train", inputs, name="one", network=gram)
    train.run(one)
    start = {"start": "1shot", "lr": 1e-9, "steps": 1}
    job = make_job(
        tmp_path, "train", {**inputs, "start": one.out}, name="three", shot=3, network=gram, train=start
    )
    train.run(job)
    before, after = (load_file(j.out / "weights.safetensors") for j in (one, job))
    assert after.keys() - before.keys() == {f"kshot_rw.{n}.{p}" for n in (0, 2) for p in ("weight", "bias")}
    name = "decoder.Q_block.0.Wq.weight"
    torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=1e-6)


def test_a_base_learner_of_elsewhere_is_scored_and_brings_its_backbone(inputs, tmp_path):
    base = {role: inputs[role] for role in ("data", "lists", "backbone")}
    backbone = load_file(inputs["backbone"] / "weights.safetensors")
    other = {name: t + 0.01 if name.endswith("conv1.weight") else t for name, t in backbone.items()}
    file = tmp_path / "base.safetensors"
    save_file({**other, **PSPNet(128, 15, 16).state_dict()}, file)
    learner = {"weights": str(file), "trains": "all"}
    changes = {"base_learner": learner, "cam_head": {"mode": "untouched"}}
    job = make_job(tmp_path, "base_learner", base, **changes)
    metrics = base_learner.run(job)
    assert metrics["images"] > 0 and (job.out / "scores.json").is_file()
    head = make_job(tmp_path, "cam_head", {**base, "base_learner": job.out}, **changes)
    assert 0 <= cam_head.run(head)["agreement"] <= 100
    assert torch.equal(load_file(head.out / "weights.safetensors")["fc.weight"], backbone["fc.weight"])
    hidden = make_job(tmp_path, "base_learner", base, base_learner={"weights": str(file)})
    with pytest.raises(JobError, match=r"brings a backbone; say so by base_learner\.trains: all"):
        base_learner.run(hidden)
    save_file(PSPNet(128, 3, 16).state_dict(), file)
    with pytest.raises(JobError, match="is made for 3 classes, the fold has 15"):
        base_learner.run(job)


def test_bam_takes_a_base_learner_of_elsewhere(inputs, tmp_path):
    base = {role: inputs[role] for role in ("data", "lists", "backbone")}
    file = tmp_path / "base.safetensors"
    save_file(PSPNet(128, 15, 16).state_dict(), file)
    changes = {"base_learner": {"weights": str(file)}, "network": BAM}
    job = make_job(tmp_path, "base_learner", base, **changes)
    base_learner.run(job)
    trained = make_job(tmp_path, "train", {**base, "base_learner": job.out}, **changes)
    assert train.run(trained)["loss"] > 0
