"""What a job uses: time, memory and energy, measured and told by the report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import fake_jobs
import pandas as pd
import pytest

from i2r.pipeline import energy, usage
from i2r.pipeline.steps import STEPS
from i2r.pipeline.usage import measured
from i2r.report import cost
from i2r.report.results import Results

WORK = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


def test_time_of_the_process_and_of_its_workers(tmp_path: Path):
    with measured(tmp_path / "spent.json") as used:
        exec(WORK)
        subprocess.run([sys.executable, "-c", WORK], check=True)
        time.sleep(0.3)
        found = used()
    assert 0.6 <= found["cpu_seconds"] <= found["seconds"] - 0.25
    assert found["memory_mb"] > 20 and found["gpu_seconds"] == 0 and found["gpu_joules"] is None


def test_an_interrupted_attempt_counts(tmp_path: Path):
    kept = tmp_path / "spent.json"
    with pytest.raises(KeyboardInterrupt), measured(kept) as used:
        time.sleep(0.3)
        raise KeyboardInterrupt
    with measured(kept) as used:
        assert 0.3 <= used()["seconds"] < 0.6
    kept.write_text("{")  # cut off
    with measured(kept) as used:
        assert used()["seconds"] < 0.2


def test_the_record_is_kept_while_the_job_runs(tmp_path: Path):
    """A job can be killed at any time."""
    kept = tmp_path / "spent.json"
    with measured(kept, every=0.01):
        while not kept.is_file():
            time.sleep(0.01)
        assert json.loads(kept.read_text())["seconds"] > 0


def test_the_record_is_kept_while_torch_is_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    kept = tmp_path / "spent.json"
    with measured(kept, gpu=True, every=0.01):
        time.sleep(0.2)
        assert json.loads(kept.read_text())["seconds"] > 0


def test_a_state_folder_that_was_removed_is_not_made_again(tmp_path: Path):
    kept = tmp_path / "state" / "spent.json"
    kept.parent.mkdir()
    with measured(kept):
        shutil.rmtree(kept.parent)
    assert not kept.parent.exists()


# --- energy --------------------------------------------------------------------------------------------------


def zone(root: Path, name: str, kind: str, now: int, limit: int = 1000) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    for file, text in (("name", kind), ("energy_uj", str(now)), ("max_energy_range_uj", str(limit))):
        (root / name / file).write_text(f"{text}\n")


def test_energy_of_processor_packages(tmp_path: Path):
    assert energy.packages(tmp_path / "none") == {}
    zone(tmp_path, "intel-rapl:0", "package-0", 900)
    zone(tmp_path, "intel-rapl:0:0", "core", 400)  # part of the package
    before = energy.packages(tmp_path)
    assert before == {"intel-rapl:0": (900, 1000)}
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    assert energy.between(before, energy.packages(tmp_path)) == pytest.approx(201e-6), (
        "the counter came round"
    )


def test_processor_energy_is_shared_by_busy_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    readings = iter([(0, 10**12), (6 * 10**6, 10**12), (10**7, 10**12)])
    monkeypatch.setattr(energy, "packages", lambda: {"package": next(readings)})
    monkeypatch.setattr(usage, "_cpu_seconds", iter([5.0, 6.0, 7.0, 7.0]).__next__)
    monkeypatch.setattr(usage, "_busy_seconds", iter([100.0, 104.0, 108.0, 108.0]).__next__)
    with measured(tmp_path / "spent.json") as used:
        assert used()["cpu_joules"] == pytest.approx(6 / 4)
        assert used()["cpu_joules"] == pytest.approx(10 / 4)
        monkeypatch.setattr(energy, "packages", dict)


def test_energy_of_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By NVML, whose functions fill what they are given and return 0, or the number of an error."""
    now = {0: 5000, 1: 7000}

    def energy_of(handle, found) -> int:
        found._obj.value = now[handle.value or 0]
        return 0

    def fill(value):
        return lambda *given: setattr(given[-1]._obj, "value", value) or 0

    library = SimpleNamespace(
        nvmlDeviceGetCount_v2=fill(3),
        nvmlDeviceGetHandleByIndex_v2=lambda number, found: (
            setattr(found._obj, "value", number) or number // 2
        ),
        nvmlDeviceGetUUID=lambda handle, found, _: (
            setattr(found, "value", b"GPU-%d" % (handle.value or 0)) or 0
        ),
        nvmlDeviceGetTotalEnergyConsumption=energy_of,
    )
    monkeypatch.setattr(energy, "_library", lambda: library)
    assert energy.cards() == {"0": 5000, "1": 7000}, "without the third, which does not answer"
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 2,
        max_memory_reserved=[0, 2**30].__getitem__,
        get_device_properties=lambda number: SimpleNamespace(uuid=number),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with (
        measured(tmp_path / "spent.json") as used,
        measured(tmp_path / "shared.json", all_gpus=True) as used_by_all,
    ):
        now[0], now[1] = 9000, 9500
        alone, shared = used(), used_by_all()
    assert alone["gpu_joules"] == 2.5 and shared["gpu_joules"] == 6.5
    assert alone["gpu_memory_mb"] == shared["gpu_memory_mb"] == 1024
    for found, count in ((alone, 1), (shared, 2)):
        assert found["gpu_seconds"] == pytest.approx(count * found["seconds"], abs=0.01)
    with measured(tmp_path / "part.json", jobs=4) as used:
        now[1] += 2000
        found = used()
    assert found["gpu_joules"] == 0.5
    assert found["gpu_seconds"] == pytest.approx(found["seconds"] / 4, abs=0.01)


# --- the report ----------------------------------------------------------------------------------------------


def costs(results: Path) -> pd.DataFrame:
    plan = fake_jobs.make(results, 10)
    paths = sorted(results.glob("store/train/*/manifest.json"))
    for path in paths:
        values = json.loads(path.read_text())
        values["cost"] |= {
            "gpu_seconds": 42.0,
            "gpu_memory_mb": 2048,
            "cpu_joules": 36.0,
            "gpu_joules": 3600.0,
        }
        path.write_text(json.dumps(values))
    spec = fake_jobs.report_of(plan)
    return cost.table(
        Results(spec.params, {role: results / given.folder for role, given in spec.inputs.items()})
    )


def test_costs_of_targets_and_steps(tmp_path: Path):
    found = costs(tmp_path / "results").set_index(["target", "step"])
    trained = found.loc["table1", "train"]
    assert trained["jobs"] == 6, "three methods on two folds"
    assert trained["hours"] == pytest.approx(6 * 42 / 3600)
    assert trained["gpu_hours"] == pytest.approx(6 * 42 / 3600) and trained["gpu_memory_gb"] == 2
    assert trained["gpu_kwh"] == pytest.approx(6 * 3600 / 3.6e6)
    assert found.loc["table1", "data"]["gpu_kwh"] == 0, "it uses no GPU"
    assert pd.isna(found.loc["table1", "data"]["cpu_kwh"]), "it did not measure it"
    assert pd.isna(found.loc["table1", "all"]["cpu_kwh"])
    shared = found.loc["all", "all"]["jobs"]
    assert shared < sum(found.loc[name, "all"]["jobs"] for name in ("table1", "table3", "table4"))
    steps, targets = cost.grids(found.reset_index())
    named = [row[0] for row in steps.rows]
    assert named[:-1] == [step for step in STEPS if step in named] and len(named) > 3, (
        "in the order of the pipeline"
    )
    assert targets.header[-1] == ("energy, kWh", "GPU")
    assert [row[0] for row in targets.rows] == ["table1", "table3", "table4", "all"]
    assert "a dash: not measured by every job" in steps.note


def test_a_manifest_from_before_costs_were_measured_has_time_and_memory(tmp_path: Path):
    plan = fake_jobs.make(tmp_path, 10)
    for path in tmp_path.glob("store/*/*/manifest.json"):
        values = json.loads(path.read_text())
        del values["cost"]
        path.write_text(json.dumps(values | {"peak_memory_mb": 1024}))
    spec = fake_jobs.report_of(plan)
    found = cost.table(
        Results(spec.params, {role: tmp_path / given.folder for role, given in spec.inputs.items()})
    )
    whole = found.iloc[-1]
    assert whole["memory_gb"] == 1 and whole["hours"] > 0 and pd.isna(whole["cpu_hours"])
    (steps, _) = cost.grids(found)
    assert "Energy was not measured" in steps.note
    assert [name for _, name in steps.header] == ["Step", "jobs", "wall", "longest", "main"]
