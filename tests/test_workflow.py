"""Snakemake, DVC and the plan together, in copies of the project whose steps are instant (see conftest.py)."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Toy

from i2r.config import schema as params
from i2r.pipeline import digests as code
from i2r.pipeline import plan
from i2r.pipeline.jobs import FUNCTIONS

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOTHING = "Nothing to be done"
TRAINED = Counter(train=2, evaluate=2, report=1)  # the method of `run` and that of `ablate`


# --- the contract between Snakefile, dvc.yaml and the plan -------------------------------------------------


def test_stages_of_dvc_are_targets_of_snakemake_in_the_order_of_the_plan():
    assert list(DVC) == list(plan.STAGES)
    snakefiles = [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]
    rules = {
        line[5:-1]
        for path in snakefiles
        for line in path.read_text().splitlines()
        if line.startswith("rule ")
    }
    assert set(plan.STAGES) <= rules
    for name, stage in DVC.items():
        assert stage["cmd"] == f"i2r stage {name}"


def test_rules_declare_what_the_plan_says_a_step_leaves():
    bodies = {}
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for part in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            name, body = part.split(":", 1)
            bodies[name] = body
    for step, products in plan.PRODUCTS.items():
        body = bodies["report" if step == "report" else f"{step}_job"]
        declared = body.split("output:")[1].split("\n    log:")[0]
        for product in products:
            assert f'/{product}"' in declared, f"{step}: {product}"
    assert 'directory(f"{STORE}/VOC")' in bodies["shapes_job"]


def test_the_local_profile_is_picked_up(toy: Toy):
    assert "profiles/default" in toy.run("snakemake", "-n")


def outs(stage: str) -> set[str]:
    return {next(iter(out)) if isinstance(out, dict) else out for out in DVC[stage]["outs"]}


def test_outs_and_deps_of_dvc_agree_with_the_plan():
    values = params.read(ROOT / "workflow/presets/tiny.yaml")
    jobs = plan.make_plan(params.check(values)).jobs
    for stage, places in plan.STAGES.items():
        expected = {f"results/store/{place}" for place in places} or {"results/${experiment}"}
        if stage == "ablate":
            expected = {"results/store/ablate"}
        assert outs(stage) == expected
        assert all(next(iter(out.values())) == {"persist": True} for out in DVC[stage]["outs"])
        own = {out for out in outs(stage)}
        needed = {
            "results/" + "/".join(f.split("/")[:2])
            for s in jobs
            if s["stage"] == stage
            for f in s["inputs"].values()
        }
        folders = {dep for dep in DVC[stage]["deps"] if dep.startswith("results/")}
        assert folders == needed - own, stage


def test_deps_of_dvc_cover_the_code_of_each_stage():
    steps = {stage: [s for s in FUNCTIONS if s in plan.STAGES[stage]] for stage in plan.STAGES}
    steps |= {"ablate": ["train", "evaluate"], "report": ["report"]}
    for stage, own in steps.items():
        deps = [dep for dep in DVC[stage]["deps"] if not dep.startswith("results/")]
        for dep in deps:
            assert (ROOT / dep).exists(), f"{stage}: {dep}"
        files = {str(code.path_of(m).relative_to(ROOT)) for step in own for m in code.modules(step)}
        missed = sorted(f for f in files if not any(f == dep or f.startswith(dep + "/") for dep in deps))
        assert not missed, f"dvc.yaml: stage {stage} lacks deps {missed}"


def leaves(values: dict, prefix: str = "") -> list[str]:
    found = []
    for name, value in values.items():
        path = f"{prefix}{name}"
        nested = isinstance(value, dict) and path != "methods"
        found += leaves(value, f"{path}.") if nested else [path]
    return found


def test_params_of_dvc_cover_what_decides_the_jobs_of_each_stage():
    """Each value that a job of the stage is made with, and each that decides which jobs there are."""
    values = params.read(ROOT / "workflow/presets/tiny.yaml")
    decide = {
        "data": ["run.folds", "run.shots", "evaluate.seeds", "ablate"],
        "base_learner": ["run.folds", "ablate"],
        "cam_head": ["run.folds", "ablate"],
        "train": ["run", "methods"],
        "evaluate": ["run", "methods", "evaluate.seeds"],
        "ablate": ["run", "ablate", "methods", "evaluate.seeds"],
        "report": ["experiment", "run", "ablate", "methods", "evaluate"],
    }
    for stage in set(plan.STAGES) - {"data"}:  # no job there uses an option that a reading may say
        decide[stage] = [*decide.get(stage, []), "reading"]
    for change in ({}, {"source": "voc", "root": "data/voc"}):
        values["data"] |= change
        jobs = plan.make_plan(params.check(values)).jobs
        for stage in plan.STAGES:
            used = {leaf for s in jobs if s["stage"] == stage for leaf in leaves(s["params"])}
            listed = DVC[stage]["params"]
            for leaf in used | set(decide.get(stage, [])):
                covered = any(leaf == name or leaf.startswith(f"{name}.") for name in listed)
                assert covered, f"dvc.yaml: stage {stage} lacks the param {leaf}"
    known = leaves(values) + list(values)
    for stage in DVC.values():
        for name in stage["params"]:
            assert any(leaf == name or leaf.startswith(f"{name}.") for leaf in known), (
                f"{name}: no such param"
            )


def test_code_that_makes_numbers_has_a_version():
    recorded = json.loads((ROOT / "tests/code_versions.json").read_text())
    for step, now in code.record().items():
        assert recorded[step] == now, (
            f"numbers of step {step} may have changed: raise VERSIONS[{step!r}] in i2r/pipeline/jobs.py or, if they have not, "
            "leave it; then run `i2r dev record-code`"
        )


def test_comments_and_docstrings_are_no_code():
    def dump(text: str) -> str:
        return code.content(ast.parse(text))

    assert dump('"""One."""\ndef f():\n    "Two."\n    return 1\n') == dump(
        "# three\ndef f():\n    return 1\n"
    )
    assert dump("def f():\n    return 1\n") != dump("def f():\n    return 2\n")


# --- Snakemake alone ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished(tmp_path_factory, new_toy: Callable[[Path], Toy]) -> Toy:
    """A toy whose stages DVC has run, committed; tests work on copies of it."""
    toy = new_toy(tmp_path_factory.mktemp("finished") / "toy")
    toy.run("dvc", "repro")
    assert sum(toy.ran().values()) == 12
    toy.run("dvc", "remote", "add", "-q", "-d", "store", str(toy.folder.parent / "remote"))
    toy.run("dvc", "push", "-q")
    toy.commit()
    return toy


@pytest.fixture
def copied(finished: Toy, tmp_path: Path) -> Toy:
    """The finished toy in another folder: everything must go on as if it had been made there."""
    return Toy(Path(shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)))


@pytest.mark.slow
def test_presets_beside_one_another_and_back(copied: Toy):
    """Another experiment, and the first again: nothing is made twice, nothing is overwritten."""
    report = (copied.folder / "results/tiny/metrics.json").read_text()
    other = yaml.safe_load((copied.folder / "params.yaml").read_text())
    other |= {"experiment": "other"}
    other["train"]["steps"] = 99
    (copied.folder / "other.yaml").write_text(yaml.safe_dump(other))
    copied.run("snakemake", "--cores", "2", "--configfile", "other.yaml")
    assert copied.ran() == TRAINED
    made = json.loads((copied.folder / "results/other/metrics.json").read_text())
    assert made["params"]["train"]["steps"] == 99, "the job saw the values of --configfile"
    assert (copied.folder / "results/tiny/metrics.json").read_text() == report
    assert NOTHING in copied.run("snakemake", "-n")
    assert NOTHING in copied.run("snakemake", "-n", "--configfile", "other.yaml")


@pytest.mark.slow
def test_results_are_not_parked_under_a_run(copied: Toy):
    """Another experiment's run may need what the params.yaml does not name."""
    lock = copied.folder / ".snakemake/locks/0.input.lock"
    lock.touch()
    copied.change(train={"steps": 52})
    output = copied.run("i2r", "stage", "train", code=1)
    assert "not in the plan" in output and "snakemake --unlock" in output
    lock.unlink()
    assert "parked" in copied.run("i2r", "stage", "train")
    assert copied.ran() == Counter(train=1)


@pytest.mark.slow
def test_params_edited_during_a_run_change_nothing_for_it(copied: Toy):
    copied.change(train={"steps": 50})
    slow = copied.folder / "slow"
    slow.mkdir()
    (slow / "train").touch()
    with subprocess.Popen(
        ["snakemake", "--cores", "1"], cwd=copied.folder, env=copied.environment(), stderr=subprocess.DEVNULL
    ) as running:
        try:
            wait_for(lambda: (copied.folder / "ran.txt").is_file())
            copied.change(train={"steps": 60}, evaluate={"scoring": "bam"})
        finally:
            (slow / "train").unlink()
        assert running.wait(120) == 0
    assert copied.ran() == TRAINED
    copied.change(train={"steps": 50}, evaluate={"scoring": "original"})
    assert NOTHING in copied.run("snakemake", "-n")


@pytest.mark.slow
def test_a_killed_run_goes_on(copied: Toy):
    """kill -9 of Snakemake: the orphaned job is waited for, its lock and Snakemake's are no obstacle."""
    copied.change(train={"steps": 51})
    slow = copied.folder / "slow"
    slow.mkdir()
    (slow / "train").touch()
    with subprocess.Popen(
        ["i2r", "stage", "all", "--cores", "1"],
        cwd=copied.folder,
        env=copied.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        wait_for(lambda: (copied.folder / "ran.txt").is_file())
        for pid in [running.pid, *children(running.pid)[:1]]:  # i2r stage and snakemake; the job lives on
            os.kill(pid, signal.SIGKILL)
    with subprocess.Popen(
        ["i2r", "stage", "all", "--cores", "1"],
        cwd=copied.folder,
        env=copied.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as again:
        (spec,) = [p for p in (copied.folder / "results/state").glob("*/lock")]
        log = next((copied.folder / "results/logs").rglob(f"*.{spec.parent.name}.log"))
        try:
            wait_for(lambda: log.is_file() and "is being worked on by process" in log.read_text())
        finally:
            (slow / "train").unlink()  # else the orphan would stay
        output = again.communicate(timeout=200)[0]
        assert again.returncode == 0, output
    assert "unlocking Snakemake" in output
    assert copied.ran() == TRAINED, "the orphan's work counts"
    assert NOTHING in copied.run("snakemake", "-n")
    assert not list((copied.folder / "results/state").glob("*/")), "nothing is left to go on from"


@pytest.mark.slow
def test_a_failed_job_names_its_log_and_leaves_nothing_half(toy: Toy):
    module = toy.folder / "i2r/steps/backbone.py"
    text = module.read_text()
    broken = "(job.out / 'weights.safetensors').touch()\n    raise ValueError('no sense in it')"
    module.write_text(text.replace("-> dict:\n", f"-> dict:\n    {broken}\n", 1))
    output = toy.run("snakemake", "--cores", "2", code=1)
    assert "results/logs/backbone/" in output and "no sense in it" in output
    assert not list((toy.folder / "results/store").glob("backbone/*/*/*"))
    module.write_text(text)
    toy.ran()
    assert NOTHING not in toy.run("snakemake")
    assert toy.ran()["backbone"] == 1 and toy.ran()["data"] == 0


def test_a_wrong_value_stops_before_anything_runs(toy: Toy):
    toy.change(train={"steps": "many"})
    for command in (("snakemake", "-n"), ("i2r", "stage", "train"), ("i2r", "plan")):
        output = toy.run(*command, code=1)
        assert "train.steps" in output and "Traceback" not in output


def test_a_reading_from_the_command_line(toy: Toy):
    toy.run("snakemake", "-n", "--config", "reading=released")
    (spec,) = (json.loads(path.read_text()) for path in (toy.folder / "results/specs/train").glob("*.json"))
    assert spec["params"]["method"]["mask"] == "transposed" and "reading" not in spec["params"]
    assert "reading" in toy.run("snakemake", "-n", "--config", "reading=authors", code=1)


# --- with DVC ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_clone_with_pulled_results_has_nothing_to_do(finished: Toy, tmp_path: Path):
    """And when a value changes there, exactly what depends on it is made: no result carries another's params."""
    finished.run("git", "clone", "-q", str(finished.folder), str(tmp_path / "clone"))
    clone = Toy(tmp_path / "clone")
    clone.run("dvc", "pull", "-q")
    assert NOTHING in clone.run("snakemake", "-n")
    assert "up to date" in clone.run("dvc", "status")
    assert "nothing to do" in clone.run("i2r", "stage", "all")
    clone.change(train={"steps": 13})
    clone.run("dvc", "repro")
    assert clone.ran() == TRAINED
    for path in (clone.folder / "results/store/train").rglob("manifest.json"):
        assert json.loads(path.read_text())["spec"]["params"]["train"]["steps"] == 13
    assert NOTHING in clone.run("snakemake", "-n")
    assert "up to date" in clone.run("dvc", "status")
    difference = clone.run("dvc", "params", "diff")
    assert "train.steps" in difference and "13" in difference


@pytest.mark.slow
@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_changes_and_back_with_each_kind_of_dvc_cache(copied: Toy, link: str):
    copied.run("dvc", "config", "cache.type", link)
    copied.run("dvc", "checkout", "-q", "--relink")
    first = (copied.folder / "params.yaml").read_text()

    copied.change(run={"folds": [0, 1]})
    copied.run("dvc", "repro")
    new = Counter(lists=1, episodes=1, base_learner=1, cam_head=1, train=1, evaluate=1, baselines=1, report=1)
    assert copied.ran() == new, "one fold more: its jobs, and the report"

    if link == "copy":  # a second change on top; the kinds of links differ in the first
        copied.change(evaluate={"scoring": "bam"})
        copied.run("dvc", "repro")
        assert copied.ran() == Counter(evaluate=3, baselines=2, report=1)

    (copied.folder / "params.yaml").write_text(first)
    copied.run("dvc", "repro")
    assert copied.ran() - Counter(report=1) == Counter(), "results of the former params come back"
    assert not list((copied.folder / "results/store/lists").glob("*fold1")), (
        "what is not in the plan is parked"
    )
    assert NOTHING in copied.run("snakemake", "-n")
    assert "up to date" in copied.run("dvc", "status")


# --- helpers -----------------------------------------------------------------------------------------------


def wait_for(ready: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(pid)], check=False, capture_output=True, text=True)
    return [int(line) for line in done.stdout.split()]
