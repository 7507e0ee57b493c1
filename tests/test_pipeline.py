"""The registry of steps, specs, keys and the plan, without Snakemake."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from i2r import cli
from i2r.config import load
from i2r.config.base import ParamsError
from i2r.config.experiment import STAGES
from i2r.errors import InputError
from i2r.files import read_json, sha256, write_json, write_text
from i2r.pipeline import digests, jobs, plan, store
from i2r.pipeline.jobs import run_job
from i2r.pipeline.spec import JobError, Spec, read_spec, write_spec
from i2r.pipeline.stage import failures
from i2r.pipeline.steps import STEPS, steps_of

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
HEAVY = {"torch", "torchvision", "mlflow", "pandas", "matplotlib", "cv2"}


def planned(name: str = "tiny", **changes) -> plan.Plan:
    """The plan of a preset with some values changed."""
    layers = load.read_layers(ROOT / f"workflow/presets/{name}.yaml")
    return plan.make_plan(load.resolve([*layers, ("test", changes)]))


def keys(made: plan.Plan, step: str) -> set[str]:
    return {spec.key for spec in made.of("all") if spec.step == step}


# --- the registry --------------------------------------------------------------------------------------------


def test_stages_are_those_of_the_steps_and_of_dvc():
    assert list(DVC) == ["plan", *STAGES]
    assert {step.stage for step in STEPS.values()} == set(STAGES) - {"ablate"}
    for name in STAGES:
        assert DVC[name]["cmd"] == f"i2r stage {name}"
        assert f"results/${{experiment}}/plan/{name}.json" in DVC[name]["deps"]


def test_outs_and_deps_of_dvc_agree_with_the_plan():
    made = planned("shapes")
    for stage in STAGES:
        outs = {next(iter(out)): out for out in DVC[stage]["outs"]}
        assert all(next(iter(out.values())) == {"persist": True} for out in outs.values())
        names = ["ablate"] if stage == "ablate" else [step.name for step in steps_of(stage)]
        assert set(outs) == {f"results/${{experiment}}/{name}" for name in names}
        needed = {
            made.views(given.key)[0].split("/")[1]
            for spec in made.of(stage)
            for given in spec.inputs.values()
            if made.stages[given.key] != stage
        }
        deps = {dep.split("/")[2] for dep in DVC[stage]["deps"]} - {"plan"}
        assert needed <= deps, stage


def test_every_step_names_a_function_of_the_package():
    for step in STEPS.values():
        module, _, name = step.function.partition(":")
        assert digests.path_of(module) is not None, step.name
        tree = ast.parse(digests.path_of(module).read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body), step.name


def test_code_that_makes_numbers_has_a_version():
    recorded = json.loads((ROOT / "tests/code_versions.json").read_text())
    for step, now in digests.record().items():
        assert recorded[step] == now, (
            f"numbers of step {step} may have changed: raise its version in i2r/pipeline/steps.py or, if they have "
            "not, leave it; then run `i2r dev record-code`"
        )


def test_comments_and_docstrings_are_no_code():
    def dump(text: str) -> str:
        return digests.content(ast.parse(text))

    assert dump('"""One."""\ndef f():\n    "Two."\n    return 1\n') == dump(
        "# three\ndef f():\n    return 1\n"
    )
    assert dump("def f():\n    return 1\n") != dump("def f():\n    return 2\n")


def test_the_code_of_one_network_is_no_code_of_another():
    i2r, bam = ({"network": {"name": name}, "backbone": {"name": "small"}} for name in ("i2r", "bam"))
    assert "i2r.nets.bam" not in digests.modules("train", i2r)
    assert "i2r.nets.bam" in digests.modules("train", bam)


def test_a_validated_base_learner_keeps_two_files_of_weights():
    for changes, expected in (
        ({"validate_every": 0}, []),
        ({"validate_every": 1}, ["last.safetensors"]),
        ({"validate_every": 1, "checkpoint": "last"}, ["best.safetensors"]),
    ):
        made = planned(base_learner=changes, network={"ensemble": True})
        found = [spec.products for spec in made.jobs.values() if spec.step == "base_learner"]
        known = STEPS["base_learner"].products
        assert found and all(list(products) == [*known, *expected] for products in found)
        assert set(expected) <= store.OURS


# --- keys ----------------------------------------------------------------------------------------------------


def test_jobs_stand_after_their_inputs():
    for name in ("tiny", "shapes", "pascal"):
        seen = set()
        for spec in planned(name).jobs.values():
            assert {given.key for given in spec.inputs.values()} <= seen
            seen.add(spec.key)


@pytest.mark.parametrize(
    ("change", "same", "other"),
    [
        (
            {"evaluate": {"mask": "cyctr"}, "methods": {"bam": {"evaluate": {"mask": "none"}}}},
            "train",
            "evaluate",
        ),
        ({"evaluate": {"tta": "scales"}}, "train", "evaluate"),
        ({"evaluate": {"delta": 0.4}}, "train", "evaluate"),
        ({"report": {"bootstrap": 10}}, "evaluate", "report"),
        ({"report": {"pictures": 1}}, "evaluate", "report"),
        ({"methods": {"bam": {"label": "B"}}}, "evaluate", "report"),
        ({"data": {"min_class_images": 4}}, "train", "episodes"),
        ({"data": {"size": 89}}, "backbone", "train"),
        ({"data": {"min_area": 90}}, "data", "lists"),
        ({"data": {"draw": "present"}}, "data", "lists"),
        ({"data": {"folds": "interleaved"}}, "data", "lists"),
        ({"base_learner": {"list": "all"}}, "lists", "base_learner"),
        ({"train": {"lr": 0.5}}, "base_learner", "train"),
        ({"base_learner": {"lr": 0.5}}, "cam_head", "base_learner"),
        ({"threads": 2}, "lists", "train"),
        ({"runtime": {"workers": 3, "device": "cpu", "cache_gb": 2, "save_every": 9}}, "report", ""),
    ],
)
def test_a_key_holds_what_its_result_depends_on_and_nothing_else(change: dict, same: str, other: str):
    before, after = planned(), planned(**change)
    assert keys(before, same) == keys(after, same)
    if other:
        assert keys(before, other) != keys(after, other)


def test_the_list_of_the_classifier_counts_only_where_it_is_trained():
    def cam_keys(**options: str) -> set[str]:
        return keys(planned(base_learner={"trains": "all"}, cam_head=options), "cam_head")

    assert cam_keys(mode="untouched", list="all") == cam_keys(mode="untouched", list="fold")
    assert cam_keys(mode="retrained", list="all") != cam_keys(mode="retrained", list="fold")
    assert not any(
        "list" in spec.params["cam_head"] for spec in planned().jobs.values() if spec.step == "cam_head"
    )


def test_lookalikes_change_keys_only_where_there_are_some():
    def data_of(**shapes) -> tuple[str, dict]:
        spec = next(s for s in planned(data={"shapes": shapes}).jobs.values() if s.step == "data")
        return spec.key, spec.params["data"]["shapes"]

    without, values = data_of(lookalikes=0.0)
    assert set(values) == {"train_images", "val_images", "seed"}  # as before look-alikes existed
    with_some, values = data_of(lookalikes=0.25)
    assert values["lookalikes"] == 0.25
    assert with_some != without


def test_shapes_paper_has_three_seeds_in_all_folds_for_each_claim():
    made = plan.make_plan(load.load(ROOT / "workflow/presets/shapes-paper.yaml"))
    shapes = planned("shapes")
    assert keys(shapes, "train") < keys(made, "train")  # it shares the results of shapes
    for name, methods in (("table1", ("i2r", "bam")), ("table3", ("i2r", "i2r-no-pmgm", "i2r-no-dicm"))):
        evaluated = [spec for spec in made.target(name) if spec.step == "evaluate"]
        labels = {label for spec in evaluated for label in made.labels[spec.key]}
        for method in methods:
            places = {f"{method}-1shot-fold{f}-seed{s}-eval0" for f in range(4) for s in range(3)}
            assert places <= labels
    priors = [spec for spec in made.target("table4") if spec.step == "baselines"]
    assert {spec.args["eval_seed"] for spec in priors} == set(range(10))


def test_a_name_of_a_method_is_a_label():
    method = load.read(ROOT / "workflow/presets/shapes.yaml")["methods"]["bam"]
    named, renamed = (
        planned("shapes", methods={name: method}, targets={"table1": {"methods": [name]}})
        for name in ("bam", "baseline")
    )
    assert keys(named, "evaluate") == keys(renamed, "evaluate")
    assert "shapes/train/baseline-1shot-fold0-seed0" in renamed.named()


def test_a_shared_job_has_every_name():
    made = planned(
        methods={"i2r-cyctr-test": {"evaluate": {"mask": "cyctr"}}},
        targets={"table1": {"methods": ["i2r", "i2r-cyctr-test"]}},
    )
    named = made.named()
    first, second = (named[f"tiny/train/{name}-1shot-fold0-seed0"] for name in ("i2r", "i2r-cyctr-test"))
    assert first == second
    assert (
        named["tiny/evaluate/i2r-1shot-fold0-seed0-eval0"]
        != named["tiny/evaluate/i2r-cyctr-test-1shot-fold0-seed0-eval0"]
    )


def test_two_jobs_never_share_a_readable_folder():
    made = planned(
        "pascal",
        methods={"i2r-large": {"data": {"min_area": 9000}}},
        targets={"table1": {"methods": ["i2r", "i2r-large"]}},
    )
    folders = [view for key in made.jobs for view in made.views(key)]
    assert len(folders) == len(set(folders))
    assert "pascal/lists/VOC2012-fold0-i2r-large" in folders


@pytest.mark.parametrize(("root", "name"), [("..", "voc"), ("data/my set {1}/", "my-set-1"), ("/", "voc")])
def test_a_folder_of_data_gives_a_name_that_is_safe_in_a_path(root: str, name: str):
    made = planned("pascal", data={"root": root})
    assert f"pascal/data/{name}" in made.named()


def test_a_test_time_option_adds_no_training():
    """Row 6 of Table 3 evaluates the networks of row 7 with another mask."""
    row = {"methods": {"row6": {"evaluate": {"mask": "cyctr"}}}}
    before, after = (
        planned("shapes"),
        planned("shapes", **row, targets={"table3": {"methods": ["i2r", "row6"]}}),
    )
    assert keys(after, "train") <= keys(before, "train")


def test_a_network_gets_the_frozen_networks_that_it_wants():
    jobs = planned("shapes").of("train")
    inputs = {spec.label.split("-1shot")[0]: set(spec.inputs) for spec in jobs}
    assert inputs["i2r"] == {"data", "lists", "backbone", "cam_head"}
    assert inputs["bam"] == {"data", "lists", "backbone", "base_learner"}


def test_ablations_are_a_stage_of_their_own():
    made = planned("shapes")
    labels = {made.labels[spec.key][0] for spec in made.of("ablate")}
    assert {"i2r-decoder-1shot-fold0-seed0", "i2r-decoder-1shot-fold0-seed0-eval0"} <= labels
    assert not any(label.startswith("i2r-1shot") for label in labels)


def test_five_shots_start_from_one_shot():
    made = planned("pascal").named()
    five = made["pascal/train/i2r-5shot-fold0-seed0"]
    assert five.inputs["start"].key == made["pascal/train/i2r-1shot-fold0-seed0"].key


def test_other_targets_are_planned_but_not_made():
    made = planned("shapes-networks")
    assert {spec.step for spec in made.target("table3")} > {"train"}
    assert not any("no-dicm" in label for spec in made.of("all") for label in made.labels[spec.key])


def test_planning_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, i2r.pipeline.plan as p, i2r.config.load as c;"
        "p.make_plan(c.load('workflow/presets/pascal.yaml')); print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(ast.literal_eval(done.stdout))


# --- specs ---------------------------------------------------------------------------------------------------


def test_a_spec_is_read_as_it_was_written(tmp_path: Path):
    for spec in planned().jobs.values():
        write_spec(spec, tmp_path)
        assert read_spec(spec.path(tmp_path)) == spec


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda v: v["params"]["train"].update(lr=9), "does not match the content"),
        (lambda v: v.update(version=99), "but the code has another version"),
        (lambda v: v.pop("params"), "not a readable spec"),
        (lambda v: v.update(step="evaluate"), "spec of a job of step evaluate, not train"),
    ],
)
def test_a_spec_that_was_changed_is_refused(tmp_path: Path, damage, sentence: str):
    spec = next(s for s in planned().jobs.values() if s.step == "train")
    values = spec.values()
    values["params"]["train"] = dict(values["params"]["train"])
    damage(values)
    write_json(spec.path(tmp_path), values)
    with pytest.raises(JobError, match=sentence):
        read_spec(spec.path(tmp_path), "train")


def test_a_job_without_its_inputs_says_so(tmp_path: Path):
    spec = next(s for s in planned().jobs.values() if s.step == "lists")
    write_spec(spec, tmp_path)
    with pytest.raises(JobError, match="the input data is missing"):
        run_job(spec.path(tmp_path))


def test_the_umask_counts_for_files(tmp_path: Path):
    before = os.umask(0o007)
    try:
        write_json(tmp_path / "file.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "file.json").stat().st_mode & 0o777 == 0o660
    assert read_json(tmp_path / "file.json") == {}


def test_values_that_are_not_used_are_no_part_of_keys():
    """So results from before these params existed are found."""
    made = planned()
    for spec in made.jobs.values():
        assert "paste" not in spec.params.get("train", {})
        if spec.step == "baselines":
            assert spec.params["baselines"] == {"threshold_episodes": 10}
    assert keys(planned(baselines={"embeddings": 3}), "baselines") == keys(made, "baselines")
    pasted = planned(train={"paste": 0.5})
    assert not keys(pasted, "train") & keys(made, "train")
    assert keys(pasted, "base_learner") == keys(made, "base_learner")
    drawn = planned(network={"embedding": True})
    assert not keys(drawn, "baselines") & keys(made, "baselines")
    others = keys(planned(network={"embedding": True}, baselines={"embeddings": 3}), "baselines")
    assert not keys(drawn, "baselines") & others


def test_a_missing_file_of_weights_is_named():
    with pytest.raises(ParamsError, match=r"methods\.i2r\.train\.start: no such file: nowhere\.pth"):
        planned(methods={"i2r": {"train": {"start": "nowhere.pth"}}})
    for start in ("{unknown}.pth", "{fold", "{fold.a}", "{fold[0]}"):
        with pytest.raises(ParamsError, match="may contain"):
            planned(methods={"i2r": {"train": {"start": start}}})
    with pytest.raises(ParamsError, match="no such file"):
        planned(methods={"i2r": {"train": {"start": "{fold:0>999}.pth"}}})


def test_weights_of_the_backbone_count_by_content(tmp_path: Path):
    """A file in the place of another makes another network; the same file elsewhere makes the same."""
    files = [tmp_path / name for name in ("a.pth", "b.pth")]
    for file in files:
        file.write_bytes(b"weights")
    first, second = (keys(planned("voc-animals", backbone={"weights": str(file)}), "train") for file in files)
    assert first == second
    files[0].write_bytes(b"others")
    changed = planned("voc-animals", backbone={"weights": str(files[0])})
    assert not keys(changed, "train") & first
    (spec,) = (spec for spec in changed.of("all") if spec.step == "backbone")
    assert spec.files == {"backbone.weights": str(files[0])}
    with pytest.raises(ParamsError, match=r"backbone\.weights: no such file"):
        planned("voc-animals", backbone={"weights": "nowhere.pth"})
    planned("voc-animals", backbone={"weights": "nowhere.pth", "digest": "0" * 64})


def test_a_spec_elsewhere_is_refused_and_nothing_is_written_there(tmp_path: Path):
    spec = next(s for s in planned().jobs.values() if s.step == "lists")
    for path in (tmp_path / "x.json", tmp_path / "specs/lists/other.json", tmp_path / "a/train/b.json"):
        write_json(path, spec.values())
        with pytest.raises(JobError, match="a spec must stay where it was written, at results/specs/lists/"):
            run_job(path)
    assert not list(tmp_path.rglob("state"))


def test_a_result_without_a_product_of_the_present_code_is_made_again(tmp_path: Path):
    """As the index of earlier data jobs, which was another file under the same key."""
    made = planned()
    data = next(spec for spec in made.jobs.values() if spec.step == "data")
    folder = tmp_path / data.folder
    finish(folder, data, {"index.parquet": "", "samples.png": ""})
    assert store.Located(made, tmp_path).state(data) == "done"
    finish(folder, data, {"index.json": "", "samples.png": ""})
    assert store.Located(made, tmp_path).state(data) == "again"
    problem = f"{folder}: made by earlier code, which did not write index.parquet"
    assert store.problem(folder, data.key) == problem


def finish(folder: Path, spec: Spec, products: dict[str, str]) -> None:
    """A finished result with these products: name -> text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in products.items():
        (folder / name).write_text(text)
    values = {"spec": spec.values(), "products": {name: sha256(folder / name) for name in products}}
    sizes = {name: len(text) for name, text in products.items()}
    write_json(folder / "manifest.json", values | {"sizes": sizes, "inputs": {}})


def test_a_state_saved_with_other_inputs_is_not_gone_on_from(tmp_path: Path, monkeypatch):
    """An input made again with another outcome while a job was interrupted."""
    made = planned()
    data, lists = (next(s for s in made.jobs.values() if s.step == step) for step in ("data", "lists"))
    write_spec(lists, tmp_path)

    found = []

    def interrupted(job):
        found.append((job.state / "saved").exists())
        (job.state / "saved").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "function_of", lambda job: interrupted)
    for text in ("one", "one", "two", "two"):
        finish(tmp_path / data.folder, data, {"index.parquet": text, "samples.png": text})
        with pytest.raises(KeyboardInterrupt):
            run_job(lists.path(tmp_path))
    assert found == [False, True, False, True]


def test_only_bad_input_keeps_a_job_from_being_repeated(tmp_path: Path, monkeypatch):
    data = next(spec for spec in planned().jobs.values() if spec.step == "data")
    write_spec(data, tmp_path)
    tried = []

    def job_that_raises(error: Exception):
        def function(job):
            tried.append(error)
            raise error

        return function

    errors = (InputError("voc/a.jpg: no such file"), MemoryError("too large"), OSError(errno.ENOSPC, "full"))
    for error, repeated in zip(errors, (False, True, True), strict=True):
        monkeypatch.setattr(jobs, "function_of", lambda job, error=error: job_that_raises(error))
        for attempts in ((1, 2), (1, 2)):  # two runs of Snakemake
            tried.clear()
            for attempt in attempts:
                with pytest.raises((InputError, MemoryError, OSError)) as raised:
                    run_job(data.path(tmp_path), attempt=attempt)
                assert repeated or str(raised.value) == str(error)
            assert len(tried) == (2 if repeated else 1)


def test_a_lock_that_cannot_be_taken_is_named(tmp_path: Path):
    (tmp_path / "state").touch()
    with (
        pytest.raises(JobError, match="the workflow needs a lock there"),
        jobs.locked(tmp_path / "state/stage.lock", "the workflow"),
    ):
        pass


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "its log is empty: it was stopped as it began, or the disk is full (make room there"),
        (
            "train x: started\n",
            "for want of memory or of room on the disk; its last line is 'train x: started'",
        ),
        ("train x: started\ni2r: a.jpg: damaged\n", "a.jpg: damaged"),
    ],
)
def test_a_job_that_did_not_finish_is_named_with_its_last_words(tmp_path: Path, log: str, said: str):
    made = planned()
    spec = next(spec for spec in made.of("all") if spec.step == "train")
    write_text(tmp_path / "logs/train" / f"{spec.key}.log", log)
    (found,) = failures(made, tmp_path)
    assert found.startswith(f"{spec.title} did not finish (") and said in found


def test_what_is_no_manifest_is_none(tmp_path: Path):
    for text in ("", "null", "[]", "{}", '{"spec": {}, "products": {}, "sizes": {}}', '{"spec": 1}'):
        (tmp_path / "manifest.json").write_text(text)
        assert store.manifest(tmp_path) is None


def test_a_port_that_is_none_gets_its_sentence(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        cli.main(["ui", "--port", "99999"])
    assert "must be a number from 1 to 65535" in capsys.readouterr().err


def test_backbones_shots_readings_and_data_sets_stand_side_by_side():
    other = {"animals": {"data": {"root": "data/voc2012-animals"}}, "released": {"reading": "released"}}
    target = {"table1": {"methods": ["i2r", "bam", "animals", "released"], "folds": [2], "shots": [1, 5]}}
    made = planned("pascal", methods=other, targets=target, make=["table1"])
    named = made.named()
    for place in ("backbone/resnet50", "backbone/resnet50-bam", "data/VOC2012", "data/voc2012-animals"):
        assert f"pascal/{place}" in named
    runs = [
        named[f"pascal/train/{name}-{shot}shot-fold2-seed0"]
        for name in target["table1"]["methods"]
        for shot in (1, 5)
    ]
    assert len({spec.key for spec in runs}) == len(runs)
    assert named["pascal/train/released-1shot-fold2-seed0"].params["network"]["mask"] == "transposed"


def test_precision_of_the_backbone_changes_what_works_on_episodes_only():
    usual, lower = planned(), planned(backbone={"precision": "bf16"})
    same = {key: spec.step for key, spec in usual.jobs.items() if key in lower.jobs}
    assert set(same.values()) >= {"backbone", "base_learner", "cam_head", "episodes"}
    assert not set(same.values()) & {"train", "evaluate", "controls", "baselines"}


def test_a_new_result_in_the_view_replaces_all_files_of_the_one_before(tmp_path):
    """Those of a report's tables too, whose names no step knows; a user's own file stays."""
    shown = tmp_path / "view"
    for name, files in {"old": ("figure5.csv", "table6.csv"), "new": ("figure5.csv", "table.csv")}.items():
        made = tmp_path / name
        made.mkdir()
        for file in files:
            write_text(made / file, name)
        products = dict.fromkeys(files, "")
        values = {"spec": {"step": "report", "key": name}, "products": products, "sizes": products}
        write_json(made / store.MANIFEST, values)
        store.link(made, shown, values)
        write_text(shown / "notes.txt", "mine")
    found = {path.name: path.read_text() for path in shown.iterdir() if path.name != store.MANIFEST}
    assert found == {"figure5.csv": "new", "table.csv": "new", "notes.txt": "mine"}
    (shown / store.MANIFEST).unlink()  # as if killed while the view was updated
    store.link(tmp_path / "new", shown, values)
    assert (shown / "figure5.csv").read_text() == "new" and (shown / "notes.txt").is_file()
