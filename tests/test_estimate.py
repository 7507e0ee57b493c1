"""What a plan says of the cost of jobs before they start."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fake_jobs
import pytest
from conftest import ROOT
from test_pipeline import HEAVY, planned

from i2r import cli
from i2r.pipeline import estimate
from i2r.pipeline.estimate import Estimate, Estimates, records, wall_time
from i2r.pipeline.plan import Plan
from i2r.pipeline.spec import Input, Spec

TWO = {"table1": {"methods": ["i2r"], "folds": [0], "baselines": None}}
MORE = {"table1": {"methods": ["i2r"], "folds": [1], "seeds": [5], "baselines": None}}


def made(results: Path, **changes) -> Plan:
    """A plan of the fake jobs whose results are in `results`."""
    return fake_jobs.make(results, 10, targets=TWO, make=["table1"], **changes)


def one(plan: Plan, step: str) -> Spec:
    return next(spec for spec in plan.jobs.values() if spec.step == step)


def change_manifests(results: Path, **values) -> None:
    for path in results.glob("store/*/*/manifest.json"):
        found = json.loads(path.read_text())
        found["cost"] |= values
        path.write_text(json.dumps(found))


def test_the_same_job_of_another_fold_and_seed_was_measured(tmp_path: Path):
    made(tmp_path)
    plan = fake_jobs.planned(targets=MORE, make=["table1"])
    found = Estimates(plan, records(tmp_path), on_gpu=False)
    for step in ("lists", "cam_head", "train", "evaluate", "controls"):
        expected = found.of(one(plan, step))
        assert (expected.seconds, expected.source, expected.memory_mb) == (42.0, "measured", 700), step
        assert expected.bytes > 0


def test_more_work_of_the_same_kind_is_scaled_and_much_more_is_unknown(tmp_path: Path):
    steps = one(made(tmp_path), "train").params["train"]["steps"]
    for factor, expected in ((2, 84.0), (0.5, 21.0), (1000, None)):
        plan = fake_jobs.planned(targets=TWO, make=["table1"], train={"steps": int(factor * steps)})
        found = Estimates(plan, records(tmp_path), on_gpu=False).of(one(plan, "train"))
        assert (found.seconds, found.source) == (expected, "scaled" if expected else "")
        assert Estimates(plan, records(tmp_path), on_gpu=False).of(one(plan, "cam_head")).source == "measured"
    wider = fake_jobs.planned(targets=TWO, make=["table1"], network={"width": 16})
    assert Estimates(wider, records(tmp_path), on_gpu=False).of(one(wider, "train")).seconds is None
    episodes = fake_jobs.planned(targets=TWO, make=["table1"], evaluate={"episodes": 3 * 300})
    was = one(made(tmp_path / "other"), "episodes").params["evaluate"]["episodes"]
    scaled = Estimates(episodes, records(tmp_path), on_gpu=False).of(one(episodes, "evaluate"))
    assert scaled.seconds == pytest.approx(42 * 900 / was)


def test_a_processor_says_nothing_of_a_gpu(tmp_path: Path):
    plan = made(tmp_path)
    assert Estimates(plan, records(tmp_path), on_gpu=True).of(one(plan, "train")).seconds is None
    assert Estimates(plan, records(tmp_path), on_gpu=True).of(one(plan, "lists")).seconds == 42
    change_manifests(tmp_path, gpu_seconds=42.0)
    assert Estimates(plan, records(tmp_path), on_gpu=True).of(one(plan, "train")).seconds == 42
    assert Estimates(plan, records(tmp_path), on_gpu=False).of(one(plan, "train")).seconds is None


def test_a_manifest_from_before_costs_were_measured(tmp_path: Path):
    plan = made(tmp_path)
    for path in tmp_path.glob("store/*/*/manifest.json"):
        values = json.loads(path.read_text())
        del values["cost"]
        path.write_text(json.dumps(values | {"peak_memory_mb": 123}))
    found = Estimates(plan, records(tmp_path), on_gpu=False).of(one(plan, "train"))
    assert (found.seconds, found.memory_mb, found.source) == (42.0, 123, "measured")


def test_trainings_that_nobody_has_run_are_calculated_for_a_card_or_unknown():
    """200 epochs over the 4208 images of PASCAL's fold 0, at the multiply-adds of an episode and the card's peak."""
    plan = planned("pascal", train={"steps": "200 epochs", "precision": "bf16"})
    spec = plan.named()["pascal/train/i2r-1shot-fold0-seed0"]
    assert Estimates(plan, {}, on_gpu=True).of(spec) == Estimate(None, "", None, None)
    assert Estimates(plan, {}, on_gpu=False, card="a100").of(spec).seconds is None
    found = Estimates(plan, {}, on_gpu=True, card="a100").of(spec)
    adds = estimate.multiply_adds()["train", "i2r", "resnet50", "473", "1"]
    assert found.source == "calculated"
    assert found.seconds == pytest.approx(200 * 4208 * 2 * adds * 1e9 / 312e12)
    slower = planned("pascal", train={"steps": "200 epochs", "precision": "fp32"})
    twice = Estimates(slower, {}, on_gpu=True, card="a100").of(
        slower.named()["pascal/train/i2r-1shot-fold0-seed0"]
    )
    assert twice.seconds == pytest.approx(2 * found.seconds)


def test_what_was_measured_on_a_card_counts_more_than_its_peak():
    values = {"steps": "200 epochs", "precision": "bf16"}
    plans = [planned("pascal", train=values, runtime={"cuda_graphs": graphs}) for graphs in (False, True)]
    found = [
        Estimates(plan, {}, on_gpu=True, card="h100").of(plan.named()["pascal/train/i2r-1shot-fold0-seed0"])
        for plan in plans
    ]
    assert [one.source for one in found] == ["reference", "reference"]
    assert found[1].seconds == pytest.approx(200 * 4208 * 0.00433) and found[0].seconds > 3 * found[1].seconds
    five = plans[1].named()["pascal/train/i2r-5shot-fold0-seed0"]
    assert Estimates(plans[1], {}, on_gpu=True, card="h100").of(five).source == "calculated"


def test_the_time_of_one_checkpoint_says_nothing_of_all(tmp_path: Path):
    made(tmp_path)
    every = {"train": {"checkpoints": 9}, "evaluate": {"checkpoint": "all"}}
    plan = fake_jobs.planned(targets=TWO, make=["table1"], **every)
    assert Estimates(plan, records(tmp_path), on_gpu=False).of(one(plan, "evaluate")).seconds is None
    assert Estimates(plan, records(tmp_path), on_gpu=False).of(one(plan, "episodes")).seconds == 42


def test_counted_multiply_adds_are_those_of_the_networks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import multiply_adds

    for network, backbone in (("i2r", "resnet50"), ("bam", "resnet50-bam")):
        found = multiply_adds.episode(network, backbone, 473, 1)
        for step, count in zip(("train", "evaluate"), found, strict=True):
            assert estimate.multiply_adds()[step, network, backbone, "473", "1"] == round(count, 1)


# --- side by side --------------------------------------------------------------------------------------------


def test_wall_time_of_jobs_side_by_side():
    plan = planned("tiny")
    jobs = list(plan.jobs.values())
    seconds = {spec.key: 1.0 + (spec.step == "train") for spec in jobs}
    in_turn = sum(seconds.values())
    assert wall_time(jobs, seconds, cores=1, gpus=0) == in_turn
    longest: dict[str, float] = {}  # from the beginning to the end of each job, if there were cores for all
    for spec in jobs:
        start = max((longest[given.key] for given in spec.inputs.values()), default=0.0)
        longest[spec.key] = start + seconds[spec.key]
    assert wall_time(jobs, seconds, cores=1000, gpus=0) == max(longest.values())
    one_gpu, four = (wall_time(jobs, seconds, cores=1000, gpus=count) for count in (1, 4))
    assert max(longest.values()) <= four < one_gpu < in_turn
    trainings = [spec for spec in jobs if spec.step == "train"]
    assert wall_time(trainings, seconds, cores=2, gpus=0) == 2.0 * -(-len(trainings) // 2)
    shared = [replace(spec, runtime=spec.runtime | {"processes": 2}) for spec in trainings]
    assert wall_time(shared, seconds, cores=1000, gpus=3) == 2.0 * len(trainings)
    assert wall_time(shared, seconds, cores=1000, gpus=4) == 2.0 * -(-len(trainings) // 2)


def test_a_job_waits_for_a_gpu_also_if_all_are_taken_when_its_inputs_are_there():
    plan = planned("tiny")
    first = next(spec for spec in plan.jobs.values() if spec.step == "train")
    data = next(spec for spec in plan.jobs.values() if spec.step == "data")
    second = replace(first, key="f" * 12, inputs={"data": Input("data", data.key)})
    jobs = [replace(first, inputs={}), replace(data, inputs={}), second]
    seconds = {first.key: 5.0, data.key: 1.0, second.key: 5.0}
    assert wall_time(jobs, seconds, cores=8, gpus=1) == 10.0


# --- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone in which nothing has run."""
    for name in ("Snakefile", "workflow", "i2r"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").write_text(
        "extends: tiny.yaml\nexperiment: tiny\ntargets: {table1: {folds: [0, 1]}}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_target_alone_and_its_totals(clone: Path, capsys: pytest.CaptureFixture):
    cli.main(["plan", "table3", "--cores", "3"])
    said = capsys.readouterr().out.splitlines()
    jobs = [line for line in said if line.startswith("to do ")]
    assert jobs and all("unknown" in line for line in jobs) and not any(" track " in line for line in jobs)
    assert f"{len(jobs)} to do" in said and said[0].split() == [
        "state",
        "stage",
        "step",
        "time",
        "key",
        "name",
    ]
    assert any(line.startswith("table3: adding PMGM") for line in said)
    assert "wall time on 3 cores: unknown" in said
    assert "--card" not in "".join(said), "without a GPU it would not help"
    for card, advised in (([], True), (["--card", "h100"], False)):
        cli.main(["plan", "table3", "--gpus", "1", *card])
        assert ("--card " in capsys.readouterr().out) == advised
    cli.main(["plan", "data"])
    said = capsys.readouterr().out
    assert "i2r-1shot" not in said and "adding" not in said
    cli.main(["plan", "data", "cam_head"])
    several = capsys.readouterr().out
    rows = [{line for line in text.splitlines() if line.startswith("to do ")} for text in (said, several)]
    assert rows[0] < rows[1] and "i2r-1shot" not in several
    with pytest.raises(SystemExit):
        cli.main(["plan", "data", "table9"])
    assert "table9: no such target or stage; choose one of all, data," in capsys.readouterr().err


def test_a_target_that_cannot_run_says_why(clone: Path, capsys: pytest.CaptureFixture):
    (clone / "params.yaml").write_text(
        "experiment: tiny\ndata: {source: shapes, size: 97}\nbackbone: {name: small}\nnetwork: hsnet\n"
        "methods: {hsnet: {}}\ntargets: {table1: {methods: [hsnet]}}\n"
    )
    with pytest.raises(SystemExit):
        cli.main(["plan", "figure4"])
    asked = subprocess.run(["snakemake", "-n", "figure4"], capture_output=True, text=True, check=False)
    assert asked.returncode == 1
    for said in (capsys.readouterr().err, asked.stderr.splitlines()[-1]):
        assert "i2r: figure4: none of its methods can run in this experiment: " in said
        assert "network.blocks: unknown key" in said


def test_planning_costs_imports_nothing_heavy(clone: Path):
    code = "import sys; from i2r import cli; cli.main(['plan', '--gpus', '2', '--card', 'h100'])"
    heavy = HEAVY - {"pandas"}  # for the sentences on seeds
    code += f"; print(sorted(set(sys.modules) & {heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
