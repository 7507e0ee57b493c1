"""What the params ask for: which jobs, by which keys, and what a changed value changes."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from i2r.config import schema as params
from i2r.config.schema import ParamsError
from i2r.files import sha256
from i2r.pipeline import plan
from i2r.pipeline.jobs import FUNCTIONS, VERSIONS, JobError, key_of, read_spec, sections_of

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))


@pytest.fixture
def values() -> dict[str, Any]:
    return params.read(ROOT / "workflow/presets/tiny.yaml")


def keys(values: dict[str, Any]) -> dict[str, dict[str, str]]:
    """step -> job -> key."""
    found: dict[str, dict[str, str]] = {}
    for spec in plan.make_plan(params.check(values)).jobs:
        found.setdefault(spec["step"], {})[spec["name"]] = spec["key"]
    return found


def changed(values: dict[str, Any], path: str, value: Any) -> set[str]:
    """Steps of which a job has another key, or there are other jobs, after a change of one value."""
    other = copy.deepcopy(values)
    *sections, name = path.split(".")
    at = other
    for section in sections:
        at = at[section]
    assert at[name] != value
    at[name] = value
    before, after = keys(values), keys(other)
    return {step for step in FUNCTIONS if before.get(step) != after.get(step)}


LEARNED = {"train", "evaluate", "report"}
FOLDS = {"lists", "episodes", "base_learner", "cam_head", "baselines"} | LEARNED


@pytest.mark.parametrize(
    ("path", "value", "steps"),
    [
        ("data.shapes.seed", 1, set(FUNCTIONS)),
        ("data.min_area", 90, FOLDS),
        ("data.size", 105, set(FUNCTIONS) - {"data", "lists", "episodes"}),
        ("backbone.pretrain.steps", 21, set(FUNCTIONS) - {"data", "lists", "episodes"}),
        ("base_learner.lr", 0.01, {"base_learner", "cam_head", "baselines"} | LEARNED),
        ("cam_head.steps", 11, {"cam_head", "baselines"} | LEARNED),
        ("train.steps", 13, LEARNED),
        ("train.augment.flip_p", 0.5, LEARNED),
        ("train.steps", "2 epochs", LEARNED),
        ("method.blocks", 3, LEARNED),
        ("method.delta", 0.5, {"baselines"} | LEARNED),
        ("method.cam_backend", "grad-cam", {"baselines"} | LEARNED),
        ("reading", "released", {"baselines"} | LEARNED),
        ("reading", "bam", LEARNED),
        ("evaluate.tta", "scales", {"evaluate", "report"}),
        ("evaluate.episodes", 21, {"episodes", "evaluate", "baselines", "report"}),
        ("evaluate.scoring", "bam", {"evaluate", "baselines", "report"}),
        ("evaluate.seeds", [0, 1], {"episodes", "evaluate", "baselines", "report"}),
        ("baselines.threshold_episodes", 11, {"baselines", "report"}),
        ("report.margin", 5.0, {"report"}),
        ("run.folds", [0, 1, 2], FOLDS),
        ("run.seeds", [0, 1], LEARNED),
        ("run.methods", ["i2r"], LEARNED),
        ("runtime.device", "cpu", set()),
        ("runtime.threads", 2, set()),
    ],
)
def test_a_changed_value_changes_exactly_what_depends_on_it(values, path, value, steps):
    assert changed(values, path, value) == steps


def test_jobs_that_stay_keep_their_keys(values):
    """Adding folds, seeds and methods leaves every job that was there as it was."""
    before = keys(values)
    values["run"] |= {"folds": [0, 1, 2], "seeds": [0, 1], "methods": ["i2r", "bam", "i2r-ordered"]}
    values["evaluate"]["seeds"] = [0, 1]
    after = keys(values)
    for step in set(FUNCTIONS) - {"report"}:
        assert before[step].items() <= after[step].items(), step


def test_each_job_comes_after_its_inputs_and_no_folder_is_shared(values):
    made = plan.make_plan(params.check(values))
    folders: set[str] = set()
    for spec in made.jobs:
        assert set(spec["inputs"].values()) <= folders, spec["name"]
        assert spec["folder"] not in folders
        assert spec["key"] == key_of(spec)
        folders.add(spec["folder"])
    assert made.report["step"] == "report"
    assert len(made.report["inputs"]) == len(made.jobs) - 1


def test_the_ablation_repeats_no_job_of_the_main_stages(values):
    values["ablate"] = {"folds": [0], "seeds": [0], "methods": ["bam", "i2r-no-dicm"]}
    made = plan.make_plan(params.check(values))
    assert {spec["args"]["method"] for spec in made.of("ablate")} == {"i2r-no-dicm"}
    assert all(spec["folder"].startswith("store/ablate/") for spec in made.of("ablate"))
    key = {spec["key"] for spec in made.of("ablate")}
    values["run"]["methods"].append("i2r-no-dicm")
    made = plan.make_plan(params.check(values))
    assert not made.of("ablate")
    assert key <= {spec["key"] for spec in made.jobs}, "the same job has the same key in both stages"


def test_a_method_trains_as_its_own_options_say(values):
    values["methods"]["bam"]["train"] = {"lr": 0.002}
    values["run"]["methods"] = ["i2r", "bam"]
    rates = {
        spec["args"]["method"]: spec["params"]["train"]["lr"]
        for spec in plan.make_plan(params.check(values)).of("train")
    }
    assert rates == {"i2r": values["train"]["lr"], "bam": 0.002}
    values["methods"]["bam"]["train"] = 800
    with pytest.raises(params.ParamsError, match=r"methods\.bam\.train: must hold keys of train, got 800"):
        params.check(values)
    values["methods"]["bam"]["train"] = {"learning_rate": 0.002}
    with pytest.raises(params.ParamsError, match=r"methods\.bam\.train: learning_rate: unknown key"):
        params.check(values)


def test_folders_and_devices_are_no_part_of_a_key(values):
    values["data"] |= {"source": "voc", "root": "data/voc", "digest": "a" * 64}
    values["backbone"] |= {"name": "resnet50", "weights": "weights.safetensors"}
    assert changed(values, "data.root", "/elsewhere/voc") == set()
    assert "data" in changed(values, "data.digest", "b" * 64)
    values["data"]["digest"] = None
    assert "data" in changed(values, "data.root", "/elsewhere/voc"), (
        "without a digest the folder says which data"
    )
    assert "backbone" in changed(values, "backbone.weights", "elsewhere.safetensors")
    values["backbone"]["digest"] = "c" * 64
    assert changed(values, "backbone.weights", "elsewhere.safetensors") == set()
    assert "backbone" in changed(values, "backbone.digest", "d" * 64)
    assert "data" not in changed(values, "data.size", 105)
    assert "backbone" not in changed(values, "data.train_list", "lists/other.txt"), (
        "ImageNet weights know no data"
    )


def test_what_is_read_of_the_backbone_decides_its_key(values):
    """How `small` is pretrained says nothing of ImageNet's weights; once made, its file is read, not its source."""
    values["data"] |= {"source": "voc", "root": "data/voc", "digest": "a" * 64}
    values["backbone"] |= {"name": "resnet50", "weights": "weights.safetensors"}
    before = keys(values)
    values["backbone"]["pretrain"] = None
    del before["report"]
    assert {step: jobs for step, jobs in keys(values).items() if step != "report"} == before
    for spec in plan.make_plan(params.check(values)).jobs:
        if spec["step"] not in ("backbone", "report"):
            assert spec["params"].get("backbone", {}).get("weights") is None
    values["backbone"] |= {"name": "small", "weights": None}
    with pytest.raises(ParamsError, match=r"backbone\.pretrain: missing"):
        params.check(values)


def test_a_backbone_of_another_file_than_its_digest_is_refused(values, tmp_path):
    weights = tmp_path / "resnet.safetensors"
    weights.write_bytes(b"weights")
    values["data"] |= {"source": "voc", "root": "data/voc", "digest": "a" * 64}
    values["backbone"] |= {"name": "resnet50", "weights": str(weights), "digest": sha256(weights)}
    (spec,) = plan.make_plan(params.check(values)).of("backbone")
    assert sections_of(spec)["backbone"]["weights"] == str(weights)
    weights.write_bytes(b"others")
    with pytest.raises(JobError, match=r"resnet\.safetensors: missing, or another file"):
        sections_of(spec)
    values["backbone"]["weights"] = None
    with pytest.raises(ParamsError, match=r"backbone: digest is that of the file weights"):
        params.check(values)


def test_a_job_of_another_network_has_another_name(values):
    names = [name for jobs in keys(values).values() for name in jobs]
    values["backbone"]["name"] = "squeezenet1_1"
    assert not {n for n in names if "small" in n} & {n for jobs in keys(values).values() for n in jobs}


def test_unknown_and_wrong_values_are_refused_by_name(values):
    values["train"]["epochs"] = 3
    with pytest.raises(ParamsError, match=r"train\.epochs: unknown key"):
        params.check(values)
    del values["train"]["epochs"]
    values["experiment"] = "store"
    with pytest.raises(ParamsError, match="experiment"):
        plan.make_plan(params.check(values))


def test_a_spec_changed_by_hand_or_of_other_code_is_refused(values, tmp_path):
    made = plan.make_plan(params.check(values))
    plan.write_specs(made, tmp_path)
    spec = next(spec for spec in made.jobs if spec["step"] == "train")
    path = tmp_path / spec["spec"]
    assert read_spec(path, "train") == spec
    with pytest.raises(JobError, match="not evaluate"):
        read_spec(path, "evaluate")
    path.write_text(json.dumps(spec | {"params": spec["params"] | {"train": {"steps": 99}}}))
    with pytest.raises(JobError, match="does not fit"):
        read_spec(path)
    newer = spec | {"version": spec["version"] + 1}
    path.write_text(json.dumps(newer | {"key": key_of(newer)}))
    with pytest.raises(JobError, match=f"the code is at version {VERSIONS['train']}"):
        read_spec(path)


def test_presets_are_complete_and_shapes_is_the_committed_params_file():
    names = {path.stem for path in PRESETS}
    assert {"shapes", "tiny", "voc-animals", "voc-subset", "pascal"} <= names
    for path in PRESETS:
        assert params.load(path).experiment == path.stem  # the schema has no defaults: a preset lacks nothing
    assert (ROOT / "workflow/presets/shapes.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_values_given_as_text_count_as_what_they_are(values):
    """Snakemake's --config makes strings of the numbers in a mapping."""
    before = keys(values)
    values["train"]["steps"] = str(values["train"]["steps"])
    assert keys(values) == before


def test_planning_is_quick_and_needs_no_torch():
    heavy = "{'torch', 'mlflow', 'pandas', 'cv2', 'matplotlib'} & set(sys.modules)"
    code = f"import sys, i2r.pipeline.stages, i2r.pipeline.plan as p, i2r.config.schema as q; p.make_plan(q.load('params.yaml')); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_conda_environment_has_the_versions_of_the_lock():
    pins = dict(
        line.split("==") for line in (ROOT / "envs/constraints.txt").read_text().split() if "==" in line
    )
    environment = yaml.safe_load((ROOT / "envs/i2r.yaml").read_text())
    (listed,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert listed == [f"{name.split('==')[0]}=={pins[name.split('==')[0]]}" for name in listed]
    asked = (ROOT / "envs/requirements.in").read_text().splitlines()
    asked = {re.split(r"[<>=]", line)[0] for line in asked if line and not line.startswith("#")}
    assert asked == {name.split("==")[0] for name in listed}


def test_without_a_cam_head_nothing_makes_or_needs_one(values):
    values["cam_head"]["mode"] = "none"
    with pytest.raises(ParamsError, match=r"cam_head.mode: none, but methods.i2r needs a CAM"):
        params.check(values)
    values["run"]["methods"], values["ablate"]["methods"] = ["bam"], []
    assert "cam_head" not in keys(values) and len(keys(values)["baselines"]) == 2
