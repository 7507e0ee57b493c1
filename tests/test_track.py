"""Tracking: finished and running jobs as MLflow runs, imported once, even after the clone has moved."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import fake_jobs
import pytest

from i2r.pipeline.jobs import run_job
from i2r.pipeline.spec import JobError

pytest.importorskip("mlflow", reason="mlflow is not installed")

from mlflow import MlflowClient

from i2r.config.experiment import Runtime
from i2r.config.schema import GRIDS
from i2r.pipeline.jobs import Job
from i2r.steps import track as track_step
from i2r.tracking import database, track, ui

TARGETS = {"table1": {"methods": ["i2r"], "folds": [0, 1], "baselines": "i2r"}}
TWO_FOLDS = {"methods": {"i2r": {"label": "I²R"}}, "targets": TARGETS}


def runs(results: Path) -> list:
    client = MlflowClient(tracking_uri=database.database(results))
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
    """A database without runs, made once because MLflow needs many seconds to create its tables."""
    home = tmp_path_factory.mktemp("empty")
    MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}").search_experiments()
    return home / "mlflow.db"


@pytest.fixture(scope="module")
def imported(tmp_path_factory, empty):
    """(results, plan) of a small experiment whose jobs are finished and imported."""
    results = tmp_path_factory.mktemp("track") / "results"
    results.mkdir()
    shutil.copy(empty, results)
    made = fake_jobs.make(results, **TWO_FOLDS)
    run_job(fake_jobs.report_of(made).path(results))
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    track.track(results)
    return results, made


def spec_of(made, step: str, fold: int = 0):
    return next(s for s in made.jobs.values() if s.step == step and s.args.get("fold") == fold)


def finished(results: Path, made) -> list[str]:
    """Keys of the jobs that have finished."""
    return [key for key, spec in made.jobs.items() if (results / spec.folder / "manifest.json").is_file()]


def test_a_run_a_job_and_a_parent_a_configuration(imported):
    results, made = imported
    found = runs(results)
    keys = [run.data.tags["i2r.key"] for run in found if "i2r.key" in run.data.tags]
    assert sorted(keys) == sorted(finished(results, made))
    parents = {run.info.run_id: run for run in found if "i2r.configuration" in run.data.tags}
    names = {run.info.run_name for run in parents.values()}
    miou = next(run.data.metrics["miou"] for run in parents.values() if "miou" in run.data.metrics)
    of_method = f"{miou:.1f} i2r-1shot-seed0 (small)"
    assert names == {of_method, "baselines i2r-1shot (small)", "data and frozen networks"}
    for run in found:
        assert run.info.status == "FINISHED"
        if run.info.run_id not in parents and run.data.tags["step"] != "report":
            assert run.data.tags["mlflow.parentRunId"] in parents


def parent_of(results: Path, start: str = "i2r-1shot"):
    """The parent whose name begins so, after its score."""
    parents = [run for run in runs(results) if "i2r.configuration" in run.data.tags]
    return next(run for run in parents if run.info.run_name.lstrip("0123456789. ").startswith(start))


def test_parent_has_means_over_folds(imported):
    results, made = imported
    scores = [
        json.loads((results / spec_of(made, "evaluate", fold).folder / "scores.json").read_text())["miou"]
        for fold in (0, 1)
    ]
    parent = parent_of(results)
    assert parent.data.metrics["miou"] == pytest.approx(sum(scores) / 2)
    assert parent.data.metrics["miou_fold1"] == pytest.approx(scores[1])
    assert parent.data.tags["folds"] == "0, 1"
    baselines = parent_of(results, "baselines i2r")
    assert {"prototype/miou", "prior-bam/fb_iou"} <= set(baselines.data.metrics)


def test_parent_says_what_it_was_made_with_and_what_the_report_says_of_it(imported):
    results, made = imported
    parent = parent_of(results)
    assert (
        parent.data.params["network.prior"] == "pmgm" and parent.data.params["cam_head.mode"] == "pretrained"
    )
    assert [given.dataset.name for given in parent.inputs.dataset_inputs] == ["shapes"]
    note = parent.data.tags["mlflow.note.content"]
    for step in ("evaluate", "train"):
        run = one(results, **{"i2r.key": spec_of(made, step, 1).key})
        assert f"runs/{run.info.run_id})" in note
    assert "report fake" in note and "| I²R | small |" in note and "everything foreground" not in note
    client = MlflowClient(tracking_uri=database.database(results))
    files = {
        item.path.rpartition("/")[2] for item in client.list_artifacts(parent.info.run_id, "report fake")
    }
    assert {"table.md", "metrics.csv", "table1.png", "episodes-i2r-fold0.png"} <= files
    table = Path(client.download_artifacts(parent.info.run_id, "report fake/metrics.csv")).read_text("utf-8")
    assert len(table.splitlines()) == 3
    baselines = parent_of(results, "baselines i2r").data.tags["mlflow.note.content"]
    assert "| everything foreground |" in baselines and "| I²R |" not in baselines


def test_an_evaluation_links_to_training_weights_and_episodes(imported):
    results, made = imported
    run = one(results, **{"i2r.key": spec_of(made, "evaluate").key})
    assert run.info.run_name == f"{run.data.metrics['miou']:.1f} evaluate fold 0 seed 0"
    client = MlflowClient(tracking_uri=database.database(results))
    trained = one(results, **{"i2r.key": spec_of(made, "train").key})
    (given,) = client.get_run(run.info.run_id).inputs.model_inputs
    (made_here,) = client.get_run(trained.info.run_id).outputs.model_outputs
    assert given.model_id == made_here.model_id
    model = client.get_logged_model(given.model_id)
    assert model.name == "i2r-1shot-fold0-seed0" and model.tags["weights"].endswith("weights.safetensors")
    assert {metric.key: metric.value for metric in model.metrics}["miou"] == run.data.metrics["miou"]
    episodes = one(results, **{"i2r.key": spec_of(made, "episodes").key})
    note = run.data.tags["mlflow.note.content"]
    assert f"runs/{trained.info.run_id})" in note and f"runs/{episodes.info.run_id})" in note


def test_runs_of_an_older_import_are_completed(imported):
    results, made = imported
    client = MlflowClient(tracking_uri=database.database(results))
    run = client.get_run(one(results, **{"i2r.key": spec_of(made, "evaluate").key}).info.run_id)
    client.set_tag(run.info.run_id, "i2r.state", "imported")
    client.delete_tag(run.info.run_id, "mlflow.note.content")
    assert track.track(results) == 1
    assert client.get_run(run.info.run_id).to_dictionary() == run.to_dictionary()


def test_training_has_params_steps_data_environment_and_weights(imported):
    results, made = imported
    spec = spec_of(made, "train")
    run = one(results, **{"i2r.key": spec.key})
    assert run.data.params["data.size"] == "97" and run.data.params["network.prior"] == "pmgm"
    assert run.data.params["fold"] == "0" and run.data.params["train.steps"] == "500"
    client = MlflowClient(tracking_uri=database.database(results))
    written = (results / spec.folder / "metrics.jsonl").read_text().splitlines()
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(m.step for m in history) == [json.loads(line)["step"] for line in written]
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "shapes" and dataset.dataset.digest == ("d1" * 32)[:12]
    tags = run.data.tags
    assert tags["mlflow.source.git.commit"] == "c0ffee0" and tags["environment.torch"] == "2.13.0"
    manifest = json.loads((results / spec.folder / "manifest.json").read_text())
    assert tags["weights.sha256"] == manifest["products"]["weights.safetensors"]
    assert tags["weights"].endswith(f"{spec.folder}/weights.safetensors")


def test_evaluation_has_scores_and_pictures_and_no_weights(imported):
    results, made = imported
    run = one(results, **{"i2r.key": spec_of(made, "evaluate").key})
    assert {"miou", "fb_iou", "prior/ap", "iou/star", "mask_ratio/1"} <= set(run.data.metrics)
    client = MlflowClient(tracking_uri=database.database(results))
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert files == {"manifest.json", "scores.json", "episodes.csv", "episodes.png"}
    report = one(results, step="report")
    assert "report.html" in {item.path for item in client.list_artifacts(report.info.run_id)}
    assert "runs" not in report.data.params and "report.bootstrap" in report.data.params


def test_scores_on_every_grid_stand_in_a_group_of_their_own(imported):
    """In an evaluation and, as means over folds, in its parent; the main score has the name without a group."""
    results, made = imported
    sticks = {}
    for fold in (0, 1):
        spec = spec_of(made, "evaluate", fold)
        found = json.loads((results / spec.folder / "scores.json").read_text())["yardsticks"]
        sticks[fold] = {
            f"yardsticks/{score}_{grid}": value for grid, own in found.items() for score, value in own.items()
        }
        own = one(results, **{"i2r.key": spec.key}).data.metrics
        assert {name: value for name, value in own.items() if name.startswith("yardsticks/")} == sticks[fold]
        assert own[f"yardsticks/miou_{spec.params['evaluate']['scoring']}"] == own["miou"]
    assert {f"yardsticks/miou_{grid}" for grid in GRIDS} < set(sticks[0])
    mean = parent_of(results).data.metrics
    for name in sticks[0]:
        assert mean[name] == pytest.approx((sticks[0][name] + sticks[1][name]) / 2), name
    alone = [name for name in mean if "/" not in name and "miou" in name]
    assert sorted(alone) == ["miou", "miou_fold0", "miou_fold1"]


def test_test_time_augmentation_has_its_first_pass_beside_it(empty, tmp_path):
    results = tmp_path / "results"
    targets = {"table1": {"methods": ["i2r"], "folds": [0]}}
    made = fake_jobs.make(results, methods={"i2r": {"evaluate": {"tta": "scales"}}}, targets=targets)
    shutil.copy(empty, results)
    track.track(results)
    metrics = one(results, **{"i2r.key": spec_of(made, "evaluate").key}).data.metrics
    assert 0 < metrics["yardsticks/miou_without_tta"] < metrics["miou"]


def test_importing_twice_changes_nothing(imported):
    results, _ = imported
    before = {run.info.run_id: run.to_dictionary() for run in runs(results)}
    track.track(results)
    assert {run.info.run_id: run.to_dictionary() for run in runs(results)} == before


def test_an_interrupted_import_goes_on(empty, tmp_path, monkeypatch):
    results = tmp_path / "results"
    targets = {"table1": {"methods": ["bam"], "folds": [0]}}
    made = fake_jobs.make(results, methods={"bam": {"network": "bam"}}, targets=targets)
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
    run = one(results, **{"i2r.key": spec_of(made, "train").key})
    client = MlflowClient(tracking_uri=database.database(results))
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert len(steps) == len(set(steps)) == 100 and run.info.status == "FINISHED"
    assert client.list_artifacts(run.info.run_id)


def test_a_moved_clone_is_imported_again(imported, tmp_path, capsys):
    results, made = imported
    moved = tmp_path / "elsewhere"
    shutil.copytree(results, moved, ignore=shutil.ignore_patterns("train", "baselines"))
    track.track(moved)
    assert "belongs to results/ that was moved or copied" in capsys.readouterr().err
    run = one(moved, **{"i2r.key": spec_of(made, "evaluate").key})
    assert run.info.artifact_uri.startswith(moved.resolve().as_uri())
    assert (moved / "mlflow-old1.db").is_file()


def test_running_jobs_are_followed_and_then_finished(imported, empty, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(
        imported[0], results, ignore=shutil.ignore_patterns("ml*", "evaluate", "baselines", "report")
    )
    shutil.copy(empty, results)
    spec = spec_of(imported[1], "train", 1)
    folder, out = results / spec.folder, results / "state" / spec.key / "out"
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").unlink()
    out.mkdir(parents=True)

    def losses() -> list[int]:
        client = MlflowClient(tracking_uri=database.database(results))
        run = one(results, **{"i2r.key": spec.key})
        return sorted(metric.step for metric in client.get_metric_history(run.info.run_id, "loss"))

    (out / "metrics.jsonl").write_text(
        "".join(lines[:10]) + lines[10][:20]
    )  # an incomplete line, still being written
    track.track(results, running=True)
    assert len(losses()) == 10 and one(results, **{"i2r.key": spec.key}).info.status == "RUNNING"
    (out / "metrics.jsonl").write_text("".join(lines[:30]))
    track.track(results, running=True)
    assert len(losses()) == 30

    shutil.rmtree(results / "state")  # stopped and given up
    track.track(results, running=True)
    assert one(results, **{"i2r.key": spec.key}).info.status == "KILLED"

    (folder / "manifest.json").write_text(manifest)  # done after all
    track.track(results)
    assert losses() == [json.loads(line)["step"] for line in lines]
    assert one(results, **{"i2r.key": spec.key}).info.status == "FINISHED"


def test_ui_refuses_a_taken_port(imported):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(JobError, match="is in use"):
            ui.ui(imported[0], taken.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_ui_serves_and_ends_with_its_server(imported, number: int, status: int):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from pathlib import Path; from i2r.tracking.ui import ui; "
    code += f"ui(Path({str(imported[0])!r}), {port}, 1)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)

    def page() -> bytes:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()

    def answers(wanted: bool) -> bool:
        for _ in range(180):
            try:
                assert b"MLflow" in page()
                if wanted:
                    return True
            except OSError:
                if not wanted:
                    return False
            time.sleep(1)
        return not wanted

    try:
        assert answers(True)
    finally:
        process.send_signal(number)
        assert process.wait(30) == status
    assert not answers(False)


# --- states of the database and of servers -------------------------------------------------------------------


def spoil(results: Path, state: str) -> None:
    path = results / "mlflow.db"
    if state == "no database":
        path.write_bytes(b"this is no database, though it has a name of one" * 20)
    elif state == "empty":
        path.write_bytes(b"")
    elif state == "cut":
        path.write_bytes(path.read_bytes()[: 3 * 4096])
    else:
        with closing(sqlite3.connect(path)) as connection:
            if state == "newer":
                connection.execute("UPDATE alembic_version SET version_num = 'abc'")
            else:
                connection.execute("DROP TABLE alembic_version")
            connection.commit()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("no database", "is damaged or no database"),
        ("empty", "is not complete"),
        ("cut", "is damaged or no database"),
        ("newer", "was made by another version of MLflow"),
        ("half made", "is not complete"),
    ],
)
def test_a_database_that_cannot_be_used_is_set_aside(empty, tmp_path, capsys, state, said):
    results = tmp_path / "results"
    results.mkdir()
    (results / "mlflow-old1.db").touch()  # from an earlier time
    shutil.copy(empty, results)
    spoil(results, state)
    assert track_job(results)["why"] is None
    assert f"MLflow: mlflow.db {said}: it is now mlflow-old2.db" in capsys.readouterr().err
    assert (results / "mlflow-old2.db").is_file() and runs(results) == []


def test_a_kill_while_the_database_is_made_leaves_nothing_that_counts(tmp_path, monkeypatch):
    results = tmp_path / "results"
    results.mkdir()
    (results / ".mlflow-new.db").write_bytes(b"half of it")
    (results / ".mlflow-new.db-journal").write_bytes(b"half of it")

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "search_experiments", die)
    with pytest.raises(KeyboardInterrupt):
        track.track(results)
    assert not (results / "mlflow.db").exists()
    monkeypatch.undo()
    assert track_job(results)["why"] is None
    assert [path.name for path in results.glob("*.db*")] + list(results.glob(".mlflow*")) == ["mlflow.db"]


def test_an_experiment_in_the_trash_is_restored(imported, tmp_path, capsys):
    client = MlflowClient(tracking_uri=database.database(imported[0]))
    shapes = client.get_experiment_by_name("shapes").experiment_id
    before = len(runs(imported[0]))
    client.delete_experiment(shapes)
    assert track_job(imported[0]) == {"imported": 0, "uri": "sqlite:///results/mlflow.db", "why": None}
    assert "experiment shapes was in the trash, and is restored" in capsys.readouterr().err
    assert len(runs(imported[0])) == before


def test_servers_that_do_not_answer_and_places_that_cannot_be_used_have_a_sentence(tmp_path, monkeypatch):
    import socket

    (tmp_path / "results").mkdir()
    monkeypatch.setattr(database, "ANSWER", 1)
    with socket.socket() as mute, socket.socket() as closed:
        for server in (mute, closed):
            server.bind(("127.0.0.1", 0))
        mute.listen()  # accepts and never answers
        for uri, said in (
            (f"http://me:secret@127.0.0.1:{mute.getsockname()[1]}", "no answer within 1 s"),
            (f"http://127.0.0.1:{closed.getsockname()[1]}/", "Connection refused"),
            (str(tmp_path / "mlruns"), "MLflow cannot use it (The filesystem tracking backend"),
            ("nonsense://x", "MLflow cannot use it ("),
            ("sqlite:////proc/none/x.db", "MLflow cannot use it ("),
        ):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            start = time.monotonic()
            found = track_job(tmp_path / "results")
            assert found["imported"] is None and "secret" not in found["why"]
            assert said in found["why"] and "`i2r track` can import them later" in found["why"]
            assert time.monotonic() - start < 15


def test_an_empty_uri_is_none(imported, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert track_job(imported[0]) == {"imported": 0, "uri": "sqlite:///results/mlflow.db", "why": None}


def test_a_clone_whose_path_has_odd_characters_is_tracked_inside_it(empty, tmp_path, monkeypatch):
    clone = tmp_path / "a b#c%20ü[x]'q?w"
    (clone / "results").mkdir(parents=True)
    monkeypatch.chdir(clone)
    fake_jobs.make(
        Path("results"),
        methods={"bam": {"network": "bam"}},
        targets={"table1": {"methods": ["bam"], "folds": [0]}},
    )
    assert track.track(Path("results")) > 0
    assert track.track(Path("results")) == 0
    assert [path.name for path in clone.iterdir()] == ["results"] and len(list(tmp_path.iterdir())) == 1
    assert (clone / "results/mlartifacts/shapes").is_dir()


# --- the step ----------------------------------------------------------------------------------------------


def track_job(results: Path) -> dict:
    """The content of tracked.json after the step has run."""
    out = results / "state" / "abc" / "out"
    out.mkdir(parents=True)
    track_step.run(Job("track", "abc", "track", {}, {}, {}, out, out.parent, Runtime()))
    values = json.loads((out / "tracked.json").read_text())
    shutil.rmtree(results / "state")
    return values


def test_the_step_imports_what_is_not_imported_yet_and_says_how_much(imported):
    results, made = imported
    client = MlflowClient(tracking_uri=database.database(results))
    run = one(results, **{"i2r.key": spec_of(made, "train").key})
    client.set_tag(run.info.run_id, "i2r.state", "running")  # as after an interrupted import
    for count in (1, 0):
        expected = {"imported": count, "uri": "sqlite:///results/mlflow.db", "why": None}
        assert track_job(results) == expected


def test_without_mlflow_the_step_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "i2r.tracking.track", None)
    found = track_job(tmp_path / "results")
    assert found["imported"] is None and found["uri"] is None and "mlflow" in found["why"]
    assert found["why"] in capsys.readouterr().err


def test_a_password_is_not_written_down(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@example.org/runs")
    assert database.public_uri(Path("results")) == "https://example.org/runs"
