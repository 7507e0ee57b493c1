"""Tracking: finished and running jobs as MLflow runs, imported once, wherever the clone lies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import fake_jobs
import pytest

from i2r.pipeline.jobs import JobError, run_job

pytest.importorskip("mlflow", reason="mlflow is not installed")

from mlflow import MlflowClient

from i2r.tracking import mlflow_import as track

ONE_FOLD = {"run": {"folds": [0, 1], "methods": ["i2r"]}, "ablate": {"folds": [], "methods": []}}


def runs(results: Path) -> list:
    client = MlflowClient(tracking_uri=track.database(results))
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments, max_results=1000)


def one(results: Path, **tags: str):
    """The run with these tags; there must be one."""
    found = [run for run in runs(results) if tags.items() <= run.data.tags.items()]
    assert len(found) == 1, [run.info.run_name for run in found]
    return found[0]


@pytest.fixture(autouse=True)
def no_other_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database without runs: making its tables takes MLflow many seconds, so it is done once."""
    home = tmp_path_factory.mktemp("empty")
    MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}").search_experiments()
    return home / "mlflow.db"


@pytest.fixture(scope="module")
def imported(tmp_path_factory, empty):
    """(results, plan) of a small experiment whose jobs have finished and been imported."""
    results = tmp_path_factory.mktemp("track") / "results"
    results.mkdir()
    shutil.copy(empty, results)
    made = fake_jobs.make(results, **ONE_FOLD, report={"pictures": 2, "bootstrap": 20})
    run_job(results / made.report["spec"])
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    track.track(results)
    return results, made


def spec_of(made, step: str, fold: int = 0) -> dict:
    return next(spec for spec in made.jobs if spec["step"] == step and spec["args"].get("fold") == fold)


def test_a_run_a_job_and_a_parent_a_configuration(imported):
    results, made = imported
    found = runs(results)
    keys = [run.data.tags["i2r.key"] for run in found if "i2r.key" in run.data.tags]
    assert sorted(keys) == sorted(spec["key"] for spec in made.jobs)
    parents = {run.info.run_id: run for run in found if "i2r.configuration" in run.data.tags}
    names = {run.info.run_name for run in parents.values()}
    assert names == {"i2r 1-shot seed 0 (small)", "baselines 1-shot (small)", "data and frozen networks"}
    for run in found:
        assert run.info.status == "FINISHED"
        if run.info.run_id not in parents and run.data.tags["step"] != "report":
            assert run.data.tags["mlflow.parentRunId"] in parents


def test_parent_has_means_over_folds(imported):
    results, made = imported
    scores = [
        json.loads((results / spec_of(made, "evaluate", fold)["folder"] / "scores.json").read_text())["miou"]
        for fold in (0, 1)
    ]
    parent = next(run for run in runs(results) if run.info.run_name.startswith("i2r 1-shot"))
    assert parent.data.metrics["miou_mean"] == pytest.approx(sum(scores) / 2)
    assert parent.data.metrics["miou_fold1"] == pytest.approx(scores[1])
    assert parent.data.tags["folds"] == "0, 1"
    baselines = next(run for run in runs(results) if run.info.run_name.startswith("baselines 1-shot"))
    assert {"prototype/miou_mean", "prior-bam/fb_iou_mean"} <= set(baselines.data.metrics)


def test_training_has_params_steps_data_environment_and_weights(imported):
    results, made = imported
    spec = spec_of(made, "train")
    run = one(results, **{"i2r.key": spec["key"]})
    assert run.data.params["data.size"] == "97" and run.data.params["method.prior"] == "pmgm"
    assert run.data.params["fold"] == "0" and run.data.params["train.lr"] == str(
        fake_jobs.PARAMS["train"]["lr"]
    )
    client = MlflowClient(tracking_uri=track.database(results))
    written = (results / spec["folder"] / "metrics.jsonl").read_text().splitlines()
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(m.step for m in history) == [json.loads(line)["step"] for line in written]
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "shapes" and dataset.dataset.digest == ("d1" * 32)[:36]
    tags = run.data.tags
    assert tags["mlflow.source.git.commit"] == "c0ffee0" and tags["environment.torch"] == "2.13.0"
    manifest = json.loads((results / spec["folder"] / "manifest.json").read_text())
    assert tags["weights.sha256"] == manifest["products"]["weights.safetensors"]
    assert tags["weights"].endswith(f"{spec['folder']}/weights.safetensors")


def test_evaluation_has_scores_and_pictures_and_no_weights(imported):
    results, made = imported
    run = one(results, **{"i2r.key": spec_of(made, "evaluate")["key"]})
    assert {"miou", "fb_iou", "interval_low", "prior/ap", "iou/star", "mask_ratio/0"} <= set(run.data.metrics)
    client = MlflowClient(tracking_uri=track.database(results))
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert files == {"manifest.json", "scores.json", "episodes.csv", "episodes.png"}
    report = one(results, step="report")
    assert "summary.html" in {item.path for item in client.list_artifacts(report.info.run_id)}


def test_importing_twice_changes_nothing(imported):
    results, _ = imported
    before = {run.info.run_id: run.to_dictionary() for run in runs(results)}
    track.track(results)
    assert {run.info.run_id: run.to_dictionary() for run in runs(results)} == before


def test_an_interrupted_import_goes_on(empty, tmp_path, monkeypatch):
    results = tmp_path / "results"
    made = fake_jobs.make(results, run={"folds": [0], "methods": ["bam"]}, ablate=ONE_FOLD["ablate"])
    shutil.copy(empty, results)
    files = track.Importer.log_files

    def die(self, job, run_id):
        if job.step == "train":
            raise KeyboardInterrupt
        files(self, job, run_id)

    monkeypatch.setattr(track.Importer, "log_files", die)
    with pytest.raises(KeyboardInterrupt):
        track.track(results)
    monkeypatch.undo()
    track.track(results)
    run = one(results, **{"i2r.key": spec_of(made, "train")["key"]})
    client = MlflowClient(tracking_uri=track.database(results))
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert len(steps) == len(set(steps)) == 100 and run.info.status == "FINISHED"
    assert client.list_artifacts(run.info.run_id)


def test_a_moved_clone_is_imported_again(imported, tmp_path, capsys):
    results, made = imported
    moved = tmp_path / "elsewhere"
    shutil.copytree(results, moved, ignore=shutil.ignore_patterns("train", "baselines"))
    track.track(moved)
    assert "results/ was moved or copied" in capsys.readouterr().err
    run = one(moved, **{"i2r.key": spec_of(made, "evaluate")["key"]})
    assert run.info.artifact_uri.startswith(moved.resolve().as_uri())
    assert (moved / "mlflow-moved.db").is_file()


def test_running_jobs_are_followed_and_then_finished(imported, empty, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(imported[0], results, ignore=shutil.ignore_patterns("ml*", "evaluate", "baselines"))
    shutil.copy(empty, results)
    spec = spec_of(imported[1], "train", 1)
    folder, out = results / spec["folder"], results / "state" / spec["key"] / "out"
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").unlink()
    out.mkdir(parents=True)

    def losses() -> list[int]:
        client = MlflowClient(tracking_uri=track.database(results))
        run = one(results, **{"i2r.key": spec["key"]})
        return sorted(metric.step for metric in client.get_metric_history(run.info.run_id, "loss"))

    (out / "metrics.jsonl").write_text("".join(lines[:10]) + lines[10][:20])  # one line is being written
    track.track(results, running=True)
    assert len(losses()) == 10 and one(results, **{"i2r.key": spec["key"]}).info.status == "RUNNING"
    (out / "metrics.jsonl").write_text("".join(lines[:30]))
    track.track(results, running=True)
    assert len(losses()) == 30

    shutil.rmtree(results / "state")  # stopped and given up
    track.track(results, running=True)
    assert one(results, **{"i2r.key": spec["key"]}).info.status == "KILLED"

    (folder / "manifest.json").write_text(manifest)  # done after all
    track.track(results)
    assert losses() == [json.loads(line)["step"] for line in lines]
    assert one(results, **{"i2r.key": spec["key"]}).info.status == "FINISHED"


def test_ui_refuses_a_taken_port(imported):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(JobError, match="is taken"):
            track.ui(imported[0], taken.getsockname()[1])


@pytest.mark.slow
def test_ui_serves_and_ends(imported):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from pathlib import Path; from i2r.tracking.mlflow_import import ui; ui(Path({str(imported[0])!r}), {port}, 1)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                break
            except OSError:
                time.sleep(1)
        assert b"MLflow" in page
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2)
