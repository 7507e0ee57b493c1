"""Snakemake, DVC and the plan together, in copies of the project with instant steps (see conftest.py)."""

from __future__ import annotations

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

NOTHING = "Nothing to be done"
ALL = Counter(
    data=1, lists=1, episodes=1, backbone=1, base_learner=1, cam_head=1, train=2, evaluate=2, baselines=1,
    report=1, track=1,
)  # fmt: skip
REPORTED = Counter(report=1, track=1)
TRAINED = Counter(train=2, evaluate=2) + REPORTED  # both methods
STAGE = ["i2r", "stage", "all"]
STORE, VIEW = "results/store", "results/tiny"


@pytest.fixture(scope="session")
def finished(tmp_path_factory, new_toy: Callable[[Path], Toy]) -> Toy:
    """A committed toy whose stages DVC has run; tests work on copies of it."""
    toy = new_toy(tmp_path_factory.mktemp("finished") / "toy")
    toy.run("dvc", "repro")
    assert toy.ran() == ALL
    toy.run("dvc", "remote", "add", "-q", "-d", "store", str(toy.folder.parent / "remote"))
    toy.run("dvc", "push", "-q")
    toy.commit()
    return toy


@pytest.fixture
def copied(finished: Toy, tmp_path: Path) -> Toy:
    """A copy of the finished toy in another folder, which must work like the original."""
    return Toy(Path(shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file below results/, except specs."""
    files = {str(path.relative_to(folder)): path.lstat() for path in (folder / "results").rglob("*")}
    return {name: (s.st_ino, s.st_mtime_ns) for name, s in files.items() if "results/specs" not in name}


# --- planning and readable paths -----------------------------------------------------------------------------


@pytest.mark.slow
def test_planning_touches_nothing(copied: Toy):
    """Even with other params than those of the results, and with a damaged result."""
    before = listing(copied.folder)
    copied.change(train={"steps": 77}, targets={"table1": {"folds": [0, 1]}})
    for command in (
        ("snakemake", "-n"),
        ("snakemake", "--lint"),
        ("snakemake", "--summary"),
        ("snakemake", "-n", "--configfile", "workflow/presets/shapes.yaml"),
        ("i2r", "plan"),
        ("i2r", "params"),
    ):
        copied.run(*command)
    assert listing(copied.folder) == before
    (next((copied.folder / STORE).glob("train/*/weights.safetensors"))).write_text("cut")
    before = listing(copied.folder)
    copied.run("snakemake", "-n")
    copied.run("i2r", "plan")
    assert listing(copied.folder) == before
    assert not copied.ran()


@pytest.mark.slow
def test_snakemake_looks_for_jobs_no_more_often_after_many_have_ended(copied: Toy):
    """Snakemake's own timers multiply with each job, and after hundreds of jobs take a core."""
    copied.change(targets={"table1": {"seeds": [1, 2, 3, 4, 5, 6]}})
    started = time.monotonic()
    said = copied.run("snakemake", "--cores", "1", "--verbose")
    jobs, seconds = sum(copied.ran().values()), time.monotonic() - started
    assert jobs >= 12 and jobs < said.count("Ready jobs: ") < 3 * jobs + seconds


@pytest.mark.slow
def test_the_end_of_a_run_says_where_the_report_is(copied: Toy):
    copied.change(report={"pictures": 3})
    place = f"{VIEW}/report/report.html"
    assert copied.run("snakemake", "--cores", "1").rstrip().endswith(f"i2r: {place}: the report")
    assert (copied.folder / place).is_file()
    assert place not in copied.run("snakemake", "--cores", "1")


@pytest.mark.slow
def test_a_trained_network_is_scored_before_the_next_is_trained(copied: Toy):
    """A run that is stopped in the middle then has scores, not only weights."""
    copied.change(targets={"table1": {"seeds": [1, 2]}})
    copied.run("snakemake", "--cores", "1")
    lines = (copied.folder / "ran.txt").read_text().splitlines()
    steps = [line.split()[0] for line in lines if line.startswith(("train", "evaluate"))]
    assert steps == ["train", "evaluate", "train", "evaluate"]


@pytest.mark.slow
def test_a_result_is_asked_for_by_its_readable_path(toy: Toy):
    path = f"{VIEW}/train/bam-1shot-fold0-seed0/weights.safetensors"
    toy.run("snakemake", path)
    assert toy.ran() == Counter(data=1, lists=1, backbone=1, base_learner=1, train=1)
    made = json.loads((toy.folder / path).read_text())
    assert made["args"] == {"fold": 0, "shot": 1, "seed": 0}
    assert NOTHING in toy.run("snakemake", "-n", path)
    assert "No rule to produce" in toy.run("snakemake", "-n", path.replace("weights", "weight"), code=1)
    assert "report_job" in toy.run("snakemake", "-n", f"{VIEW}/table3/figures/miou.png")


@pytest.mark.slow
def test_a_target_alone(toy: Toy):
    toy.run("snakemake", "table3")
    assert toy.ran()["train"] == 1 and toy.ran()["track"] == 0
    assert (toy.folder / VIEW / "table3/report.html").is_file()
    toy.run("snakemake", "table4")
    assert toy.ran() == Counter(cam_head=1, baselines=1, report=1)


def test_a_job_names_only_manifests_as_its_inputs(toy: Toy):
    """With every product of each input, a plan of 1500 jobs has five times as many edges and takes twice as long."""
    found = [
        line.split(":", 1)[1] for line in toy.run("snakemake", "-n").splitlines() if "    input: " in line
    ]
    files = [file for line in found for file in line.strip().split(", ")]
    assert files and all(file.endswith("/manifest.json") for file in files)


def test_several_config_files(toy: Toy):
    """Each overrides those before it, for Snakemake and for `i2r`; they replace params.yaml."""
    (toy.folder / "seeds.yaml").write_text(
        "targets: {table4: {methods: [i2r], seeds: [3, 4]}}\nmake: [table4]\n"
    )
    files = ["--configfile", "workflow/presets/tiny.yaml", "seeds.yaml"]
    said = toy.run("i2r", "plan", *files)
    assert "i2r-1shot-fold1-seed4-eval0" in said and "seed0" not in said
    counts = [line.split() for line in toy.run("snakemake", "-n", *files).splitlines()]
    assert ["train_job", "4"] in counts
    reports = [json.loads(path.read_text()) for path in (toy.folder / "results/specs/report").glob("*.json")]
    assert all(spec["options"] == files for spec in reports)
    wrong = toy.run("i2r", "plan", *files, "none.yaml", code=1)
    assert "none.yaml: no such params file" in wrong


def test_a_wrong_value_stops_before_anything_runs(toy: Toy):
    toy.change(train={"steps": "many"})
    for command in (("snakemake", "-n"), ("i2r", "stage", "train"), ("i2r", "plan")):
        output = toy.run(*command, code=1)
        assert "train.steps" in output and "Traceback" not in output


def test_values_of_the_command_line(toy: Toy):
    toy.run("snakemake", "-n", "--config", "reading=released", "train={lr: 0.5}")
    found = [json.loads(path.read_text()) for path in (toy.folder / "results/specs/train").glob("*.json")]
    assert all(
        spec["params"]["train"]["lr"] == 0.5 for spec in found if spec["params"]["network"]["name"] == "i2r"
    )
    declared = ("bam-1shot", "i2r-no-pmgm-1shot")  # by the experiment; the others are the paper's
    own = [spec for spec in found if spec["label"].startswith(declared)]
    assert {spec["params"]["network"].get("mask") for spec in own} == {None, "transposed"}
    specs = set((toy.folder / "results/specs").rglob("*.json"))
    reports = [json.loads(path.read_text()) for path in specs if path.parent.name == "report"]
    assert {tuple(spec["options"]) for spec in reports} == {
        ("--config", 'reading="released"', 'train={"lr": "0.5"}')
    }
    toy.run("snakemake", "-n", *reports[0]["options"])  # as the report says: the same jobs
    assert set((toy.folder / "results/specs").rglob("*.json")) == specs
    assert "reading" in toy.run("snakemake", "-n", "--config", "reading=authors", code=1)


@pytest.mark.slow
def test_the_parts_of_the_report_are_in_that_of_snakemake(copied: Toy):
    copied.run("snakemake", "report", "--report", "all.html")
    page = (copied.folder / "all.html").read_text()
    report = next((copied.folder / STORE).glob("report/*"))
    for name in (
        "report.html",
        "claims.csv",
        "table.csv",
        "per_class.csv",
        "checklist.md",
        "figures/miou.png",
    ):
        assert f"{STORE}/report/{report.name}/{name}" in page, name
    for category in ("The report", "Claims and controls", "Tables", "Figures", "Provenance"):
        assert f'"{category}"' in page
    assert "Few Shot Segmentation" in page  # workflow.rst
    assert not copied.ran()


# --- what runs again, and what does not ----------------------------------------------------------------------


@pytest.mark.slow
def test_presets_beside_one_another_and_back(copied: Toy):
    """After another experiment the first one is still there: nothing is made twice or overwritten."""
    report = (copied.folder / VIEW / "report/metrics.json").read_text()
    other = yaml.safe_load((copied.folder / "params.yaml").read_text()) | {"experiment": "other"}
    other |= {"train": {"steps": 99}, "methods": {"bam": {"train": {"steps": 99}}}}
    (copied.folder / "other.yaml").write_text(yaml.safe_dump(other))
    copied.run("snakemake", "--cores", "2", "--configfile", "other.yaml")
    assert copied.ran() == TRAINED
    made = json.loads((copied.folder / "results/other/report/metrics.json").read_text())
    assert made["params"]["methods"]["bam"]["params"]["train"]["steps"] == 99
    made = json.loads((copied.folder / "results/other/report/manifest.json").read_text())
    assert made["spec"]["options"] == ["--configfile", "other.yaml"]
    assert (copied.folder / VIEW / "report/metrics.json").read_text() == report
    assert NOTHING in copied.run("snakemake", "-n")
    assert NOTHING in copied.run("snakemake", "-n", "--configfile", "other.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "runs"),
    [
        (
            {"evaluate": {"mask": "cyctr"}, "methods": {"bam": {"evaluate": {"mask": "none"}}}},
            Counter(evaluate=1),
        ),
        ({"evaluate": {"tta": "scales"}}, Counter(evaluate=2)),
        ({"evaluate": {"delta": 0.5}}, Counter()),  # neither method has a CAM
        ({"report": {"bootstrap": 50, "pictures": 1}}, Counter()),
        ({"methods": {"bam": {"label": "the baseline"}}}, Counter()),
        ({"runtime": {"workers": 2, "cache_gb": 2}}, None),
    ],
)
def test_only_what_depends_on_a_value_runs_again(copied: Toy, change: dict, runs: Counter | None):
    copied.change(**change)
    copied.run("snakemake")
    assert copied.ran() == (Counter() if runs is None else runs + REPORTED)


@pytest.mark.slow
def test_a_renamed_method_is_not_trained_again(copied: Toy):
    copied.change(methods={"baseline": {"network": {"name": "bam", "width": 16, "reduce_dropout": 0.5}}})
    values = yaml.safe_load((copied.folder / "workflow/presets/tiny.yaml").read_text())["methods"]["bam"]
    shapes = yaml.safe_load((copied.folder / "workflow/presets/shapes.yaml").read_text())["methods"]["bam"]
    copied.change(methods={"baseline": {"train": shapes["train"] | values["train"]}})
    copied.change(methods={"baseline": {"network": shapes["network"] | values["network"]}})
    copied.change(targets={"table1": {"methods": ["baseline"]}})
    copied.run("snakemake")
    assert copied.ran() == REPORTED
    assert (copied.folder / VIEW / "train/baseline-1shot-fold0-seed0/weights.safetensors").is_file()
    assert not (copied.folder / VIEW / "train/bam-1shot-fold0-seed0").exists()


@pytest.mark.slow
def test_a_result_made_again_with_another_outcome_makes_what_came_from_it_again(copied: Toy):
    """As on a GPU, where one key can give different weights: the same command continues until all agree."""
    (copied.folder / "outcome").write_text("another")
    damaged = next((copied.folder / STORE).glob("base_learner/*/weights.safetensors"))
    damaged.write_text("cut")
    assert "damaged, its size has changed" in copied.run("i2r", "plan")
    copied.run("i2r", "stage", "all")
    assert copied.ran() == Counter(base_learner=1, train=1, evaluate=1) + REPORTED
    assert NOTHING in copied.run("snakemake", "-n")
    assert (
        "another" in (copied.folder / VIEW / "evaluate/bam-1shot-fold0-seed0-eval0/scores.json").read_text()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("remove", "scores.json: missing; it is made again"),
        ("cut", "scores.json: damaged, its size has changed; it is made again"),
        ("manifest cut", "manifest.json: cannot be read; it is made again"),
        ("manifest gone", "cam_head "),  # as if it had never been made
    ],
)
@pytest.mark.parametrize("command", [("snakemake",), ("i2r", "stage", "all")])
def test_a_damaged_result_is_made_again(copied: Toy, damage: str, said: str, command: tuple[str, ...]):
    folder = next((copied.folder / STORE).glob("cam_head/*"))
    shutil.rmtree(copied.folder / VIEW / "cam_head")  # the view has the same files by another name
    if damage == "remove":
        (folder / "scores.json").unlink()
    elif damage == "cut":
        (folder / "scores.json").write_text("")
    elif damage == "manifest cut":
        (folder / "manifest.json").write_text("{")
    else:
        (folder / "manifest.json").unlink()
    assert said in copied.run(*command)
    assert copied.ran() == Counter(cam_head=1)
    assert NOTHING in copied.run("snakemake", "-n")


@pytest.mark.slow
def test_a_job_to_do_runs_after_an_input_that_is_made_again(copied: Toy):
    """In one call, although Snakemake itself does not look at what follows a job that it runs."""
    for home in (STORE, VIEW):
        (next((copied.folder / home).glob("data/*/index.parquet"))).write_text("cut")
        shutil.rmtree(next((copied.folder / home).glob("lists/*")))
    copied.run("snakemake")
    assert copied.ran() == Counter(data=1, lists=1)
    assert NOTHING in copied.run("snakemake", "-n")


@pytest.mark.slow
def test_damage_of_the_same_kind_is_seen_again(copied: Toy):
    for _ in range(2):
        for home in (STORE, VIEW):
            manifest = next((copied.folder / home).glob("cam_head/*/manifest.json"))
            manifest.unlink()
            manifest.write_text('{"spec": {}, "products": {}, "sizes": {}}')
        copied.run("snakemake")
        assert copied.ran() == Counter(cam_head=1)


@pytest.mark.slow
def test_results_that_a_wrong_clock_dated_ahead_are_no_obstacle(copied: Toy):
    damaged = next((copied.folder / STORE).glob("cam_head/*/scores.json"))
    damaged.write_text("")
    for path in (copied.folder / STORE).rglob("*"):
        os.utime(path, (time.time() + 86400,) * 2)
    copied.run("snakemake")
    assert copied.ran() == Counter(cam_head=1)
    assert NOTHING in copied.run("snakemake", "-n")


@pytest.mark.slow
def test_content_that_changed_is_no_input(copied: Toy):
    """As when a file of the view is edited in place, which is the same file in the store, and keeps its size."""
    scores = copied.folder / VIEW / "evaluate/bam-1shot-fold0-seed0-eval0/scores.json"
    (made,) = (
        path for path in (copied.folder / STORE).glob("evaluate/*/scores.json") if is_same(path, scores)
    )
    changed = made.read_text().replace('"fold": 0', '"fold": 9')
    for path in (scores, made):
        path.unlink()
        path.write_text(changed)
    copied.change(report={"bootstrap": 7})
    output = copied.run("snakemake", code=1)
    assert (
        "scores.json: damaged, its content has changed; `i2r run evaluate --spec results/specs/evaluate/"
        in output
    )
    assert not copied.ran()
    assert "its content has changed" in copied.run("i2r", "stage", "evaluate")
    assert copied.ran() == Counter(evaluate=1)
    copied.run("snakemake")
    assert copied.ran() == REPORTED
    assert '"fold": 0' in scores.read_text()


@pytest.mark.slow
def test_the_view_is_mended_from_the_store_and_keeps_what_is_not_ours(copied: Toy):
    folder = copied.folder / VIEW / "train/bam-1shot-fold0-seed0"
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").write_text("cut")
    (folder / "notes.txt").write_text("mine")
    assert "view" in copied.run("snakemake", "-n")
    copied.run("snakemake")
    assert not copied.ran()
    assert (folder / "weights.safetensors").read_text() != "cut"
    copied.change(targets={"table1": {"folds": [1]}}, paper={"folds": [1]})
    copied.run("snakemake", "train")
    assert [path.name for path in folder.iterdir()] == ["notes.txt"], "of a fold that is not in the plan"


@pytest.mark.slow
def test_a_link_without_its_file_is_made_again(copied: Toy):
    """As after `rm -rf .dvc/cache`, where DVC links."""
    shutil.rmtree(copied.folder / STORE)
    weights = copied.folder / VIEW / "cam_head/shapes-small-fold0/weights.safetensors"
    weights.unlink()
    weights.symlink_to("nowhere")
    copied.run("snakemake")
    assert copied.ran() == Counter(cam_head=1)
    assert NOTHING in copied.run("snakemake", "-n")


@pytest.mark.slow
def test_a_home_that_cannot_be_written_to_a_plain_locale_and_odd_characters(toy: Toy, tmp_path: Path):
    keys = toy.run("i2r", "plan")
    odd = Toy(Path(shutil.move(toy.folder, tmp_path / "a b#c%20ü[x]'q")))
    command = ["env", "HOME=/proc", "LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", "i2r"]
    assert odd.run(*command, "plan") == keys
    odd.run(*command, "stage", "all")
    assert odd.ran() == ALL
    assert "done" in odd.run(*command, "plan") and NOTHING in odd.run("snakemake", "-n")


def test_specs_that_cannot_be_written_get_a_sentence(toy: Toy):
    (toy.folder / "results").mkdir()
    (toy.folder / "results/specs").touch()
    for command in (("snakemake", "-n"), ("i2r", "plan")):
        output = toy.run(*command, code=1)
        last = output.splitlines()[-1]
        assert last.startswith("i2r: ") and last.endswith(
            "Not a directory; specs are written to results/specs"
        )
        assert "Traceback" not in output


def test_a_file_that_dvc_would_not_watch_is_refused(toy: Toy):
    shutil.move(toy.folder / "params.yaml", toy.folder / "mine.yaml")
    (toy.folder / "params.yaml").write_text("extends: mine.yaml\nexperiment: tiny\n")
    assert "mine.yaml: DVC does not track this file" in toy.run("i2r", "plan", "--write", code=1)
    toy.run("i2r", "plan")


@pytest.mark.slow
def test_changed_code_is_named(copied: Toy):
    module = copied.folder / "i2r/steps/train.py"
    module.write_text(module.read_text() + "\n\nANOTHER = 1\n")
    assert "made by other code than the present: 2 of train" in copied.run("i2r", "stage", "all")
    assert copied.run("i2r", "plan").count(", made by other code") == 2
    assert not copied.ran()


@pytest.mark.slow
def test_params_edited_during_a_run_change_nothing_for_it(copied: Toy):
    copied.change(train={"steps": 50}, methods={"bam": {"train": {"steps": 50}}})
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


# --- trouble -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_goes_on(copied: Toy):
    """After kill -9 of Snakemake the orphaned job is waited for, and no lock remains."""
    copied.change(train={"steps": 51}, methods={"bam": {"train": {"steps": 51}}})
    slow = copied.folder / "slow"
    slow.mkdir()
    (slow / "train").touch()
    command = ["i2r", "stage", "all", "--cores", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(command, cwd=copied.folder, env=copied.environment(), **quiet) as running:
        wait_for(lambda: (copied.folder / "ran.txt").is_file())
        for pid in [running.pid, *children(running.pid)[:1]]:  # i2r stage and snakemake; the job lives on
            os.kill(pid, signal.SIGKILL)
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=copied.folder, env=copied.environment(), **output) as again:
        (owner,) = (copied.folder / "results/state/locks").glob("*.owner")
        log = copied.folder / f"results/logs/train/{owner.stem}.log"
        try:
            wait_for(lambda: log.is_file() and "is being worked on by process" in log.read_text())
        finally:
            (slow / "train").unlink()  # else the orphan would stay
        text = again.communicate(timeout=200)[0]
        assert again.returncode == 0, text
    assert "an earlier Snakemake was killed; removing its lock" in text
    assert copied.ran() == TRAINED, "the orphan's work counts"
    assert NOTHING in copied.run("snakemake", "-n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "command"),
    [
        ("i2r stage", STAGE),
        ("snakemake", STAGE),
        ("plain snakemake", STAGE),
        ("plain snakemake", ["snakemake"]),
    ],
)
def test_a_run_goes_on_after_one_process_was_killed(copied: Toy, killed: str, command: list[str]):
    """What lives on is waited for: Snakemake itself, or its job."""
    copied.change(train={"steps": 55}, methods={"bam": {"train": {"steps": 55}}})
    slow = copied.folder / "slow"
    slow.mkdir()
    (slow / "train").touch()
    first = ["snakemake"] if killed == "plain snakemake" else command
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(
        [*first, "--cores", "1"], cwd=copied.folder, env=copied.environment(), **quiet
    ) as running:
        wait_for(lambda: (copied.folder / "ran.txt").is_file())
        os.kill(children(running.pid)[0] if killed == "snakemake" else running.pid, signal.SIGKILL)
        running.wait()
    once_more = [*command, "--cores", "2"]  # both trainings start, and one finds that it is being made
    with subprocess.Popen(once_more, cwd=copied.folder, env=copied.environment(), **output) as again:
        try:
            said = ""
            while "waiting" not in said and (line := again.stdout.readline()):
                said += line
        finally:
            (slow / "train").unlink()
        said += again.communicate(timeout=200)[0]
    assert again.returncode == 0, said
    assert ("Snakemake runs here (process" in said) == (killed == "i2r stage")
    assert ("removing its lock" in said) == (killed != "i2r stage")
    assert copied.ran() == TRAINED
    assert NOTHING in copied.run("snakemake", "-n")


@pytest.mark.slow
def test_a_lock_of_another_machine_is_left_to_a_person(copied: Toy):
    copied.change(train={"steps": 56})
    (copied.folder / ".snakemake/locks").mkdir(parents=True, exist_ok=True)
    (copied.folder / ".snakemake/locks/0.output.lock").touch()
    (copied.folder / "results/state/snakemake.owner").write_text("process 1 on elsewhere\n")
    said = copied.run("i2r", "stage", "all", code=1)
    assert "locked by process 1 on elsewhere" in said and "`snakemake --unlock` removes its lock" in said
    assert "locked by process 1 on elsewhere" in copied.run("snakemake", "-n")
    copied.run("snakemake", "--unlock")
    assert "locked by" not in copied.run("snakemake", "-n")


@pytest.mark.slow
def test_what_a_job_finished_after_snakemake_was_killed_is_kept(copied: Toy):
    copied.change(train={"steps": 54})
    (copied.folder / "slow").mkdir()
    (copied.folder / "slow/train").touch()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(["snakemake"], cwd=copied.folder, env=copied.environment(), **quiet) as running:
        wait_for(lambda: (copied.folder / "ran.txt").is_file())
        running.kill()
    before = len(list((copied.folder / STORE).glob("train/*/manifest.json")))
    (copied.folder / "slow/train").unlink()
    wait_for(lambda: len(list((copied.folder / STORE).glob("train/*/manifest.json"))) > before)
    copied.run("snakemake")
    assert copied.ran() == Counter(train=1, evaluate=1) + REPORTED


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]])
def test_a_stopped_run_goes_on(copied: Toy, numbers: list[signal.Signals]):
    """After Ctrl-C, once or twice, sent to the process group as by a terminal, and a plain kill, no lock remains."""
    copied.change(train={"steps": 52}, methods={"bam": {"train": {"steps": 52}}})
    (copied.folder / "slow").mkdir()
    (copied.folder / "slow/train").touch()
    command = ["i2r", "stage", "all", "--cores", "1"]
    log = (copied.folder / "output.txt").open("w")
    streams = {"stdout": log, "stderr": log, "start_new_session": True}
    with log, subprocess.Popen(command, cwd=copied.folder, env=copied.environment(), **streams) as running:
        wait_for(lambda: (copied.folder / "ran.txt").is_file())
        for number in numbers:
            (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
            time.sleep(1)
        (copied.folder / "slow/train").unlink()
        assert running.wait(60) == 130
    said = (copied.folder / "output.txt").read_text()
    assert said.endswith("i2r: interrupted\n") and "Traceback" not in said
    copied.run("i2r", "stage", "all")
    assert NOTHING in copied.run("snakemake", "-n")


@pytest.mark.slow
def test_a_failed_job_names_its_log_and_leaves_nothing_half(toy: Toy):
    module = toy.folder / "i2r/steps/backbone.py"
    text = module.read_text()
    broken = "(job.out / 'weights.safetensors').touch()\n    raise ValueError('no sense in it')"
    module.write_text(text.replace("-> dict:\n", f"-> dict:\n    {broken}\n", 1))
    output = toy.run("i2r", "stage", "all", "--cores", "2", code=1)
    assert "results/logs/backbone/" in output and "no sense in it" in output and "Traceback" in output
    module.write_text(module.read_text().replace("raise ValueError('", "raise OSError(28, '"))
    output = toy.run("i2r", "stage", "all", "--cores", "2", code=1)
    assert output.rstrip().endswith("run the same command again)")
    assert "/out: No space left on device (make room" in output
    assert "Traceback" not in output
    assert not list((toy.folder / STORE).glob("backbone/*/*"))
    module.write_text(text)
    toy.ran()
    assert NOTHING not in toy.run("snakemake")
    assert toy.ran()["backbone"] == 1 and toy.ran()["data"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "tries", "said"),
    [
        ("from i2r.errors import InputError; raise InputError('weights/ü.pth: no such file')", 1, "weights/ü.pth"),
        ("raise MemoryError('too large')", 2, "MemoryError: too large"),
        ("import os; os.kill(os.getpid(), 9)", 2, "it was killed"),
    ],
    ids=["bad input", "an error", "a kill"],
)  # fmt: skip
def test_bad_input_is_not_repeated_and_its_sentence_stands_last(toy: Toy, error: str, tries: int, said: str):
    """And `i2r stage` does not print Snakemake's own block about it. Called again, the job is tried again."""
    module = toy.folder / "i2r/steps/backbone.py"
    text = module.read_text()
    count = "Path('tries').open('a', encoding='utf-8').write('.')"
    module.write_text(text.replace("-> dict:\n", f"-> dict:\n    {count}\n    {error}\n", 1))
    for number, command in enumerate((("i2r", "stage", "backbone"), ("snakemake", "backbone")), start=1):
        output = toy.run(*command, code=1)
        assert (toy.folder / "tries").read_text() == "." * tries * number
        last = output.rstrip().splitlines()[-1]
        assert last.startswith("i2r: backbone small did not finish (results/logs/backbone/") and said in last
        assert ("CalledProcessError" in output) == (command[0] == "snakemake")
    module.write_text(text)
    toy.run("i2r", "stage", "backbone")


@pytest.mark.slow
def test_a_run_without_a_reader_goes_on(toy: Toy):
    assert toy.run("bash", "-c", "set -o pipefail; i2r stage data --cores 1 2>log.txt | true") == ""
    assert (toy.folder / "results/tiny/data/shapes/manifest.json").is_file()


@pytest.mark.slow
def test_a_state_folder_that_is_removed_during_a_run_stops_nothing(copied: Toy):
    """The job that runs is repeated, and another run finds no lock or record that is only half there."""
    copied.change(train={"steps": 53}, methods={"bam": {"train": {"steps": 53}}})
    slow = copied.folder / "slow/train"
    slow.parent.mkdir()
    slow.touch()
    command, log = ["i2r", "stage", "all", "--cores", "1"], copied.folder / "output.txt"
    with log.open("w") as out:
        running = subprocess.Popen(
            command, cwd=copied.folder, env=copied.environment(), stdout=out, stderr=out
        )
    wait_for(lambda: (copied.folder / "ran.txt").is_file())
    shutil.rmtree(copied.folder / "results/state")
    slow.unlink()
    assert running.wait(120) == 0, log.read_text()
    said = log.read_text()
    assert "removed while the job ran" in said and "Traceback" not in said
    assert copied.ran() == Counter(train=3, evaluate=2) + REPORTED
    assert "nothing to do" in copied.run("i2r", "stage", "all")


# --- with DVC ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_clone_with_pulled_results_has_nothing_to_do(finished: Toy, tmp_path: Path):
    """When a value changes there, exactly the results that depend on it are made."""
    finished.run("git", "clone", "-q", str(finished.folder), str(tmp_path / "clone"))
    clone = Toy(tmp_path / "clone")
    clone.run("dvc", "pull", "-q")
    assert NOTHING in clone.run("snakemake", "-n")
    assert "up to date" in clone.run("dvc", "status")
    assert "nothing to do" in clone.run("i2r", "stage", "all")
    clone.change(train={"steps": 13})
    assert "train_job" in clone.run("snakemake", "-n")
    clone.run("dvc", "repro")
    assert clone.ran() == Counter(train=1, evaluate=1) + REPORTED
    (made,) = (clone.folder / VIEW / "ablate/train").glob("*/manifest.json")
    assert json.loads(made.read_text())["spec"]["params"]["train"]["steps"] == 13
    assert NOTHING in clone.run("snakemake", "-n")
    assert "up to date" in clone.run("dvc", "status")
    difference = clone.run("dvc", "params", "diff")
    assert "train.steps" in difference and "13" in difference
    clone.run("git", "checkout", "-q", "--", ".")  # and back, by git and DVC
    clone.run("dvc", "checkout", "-q")
    assert NOTHING in clone.run("snakemake", "-n")
    assert (clone.folder / VIEW / "report/report.html").is_file()
    clone.run("snakemake")
    assert not clone.ran()


@pytest.mark.slow
def test_a_clone_goes_on_by_snakemake_alone(finished: Toy, tmp_path: Path):
    """A value is changed in a clone with pulled results, and changed back: the pulled results are not lost."""
    finished.run("git", "clone", "-q", str(finished.folder), str(tmp_path / "clone"))
    clone = Toy(tmp_path / "clone")
    clone.run("dvc", "pull", "-q")
    first = (clone.folder / "params.yaml").read_text()
    clone.change(train={"steps": 14})
    clone.run("snakemake")
    assert clone.ran() == Counter(train=1, evaluate=1) + REPORTED
    (clone.folder / "params.yaml").write_text(first)
    clone.run("snakemake")
    assert not clone.ran()
    assert "up to date" in clone.run("dvc", "status")


@pytest.mark.slow
@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_changes_and_back_with_each_kind_of_dvc_cache(copied: Toy, link: str):
    copied.run("dvc", "config", "cache.type", link)
    copied.run("dvc", "checkout", "-q", "--relink")
    first = (copied.folder / "params.yaml").read_text()
    store = sorted(str(path) for path in (copied.folder / STORE).rglob("manifest.json"))

    copied.change(targets={"table1": {"folds": [0, 1]}})
    copied.run("dvc", "repro")
    new = Counter(lists=1, episodes=1, base_learner=1, cam_head=1, train=1, evaluate=1, baselines=1)
    assert copied.ran() == new + REPORTED, "one fold more: its jobs, and the report"

    copied.change(evaluate={"scoring": "bam"})  # a second change on top
    copied.run("dvc", "repro")
    assert copied.ran() == Counter(evaluate=3, baselines=2) + REPORTED

    (copied.folder / "params.yaml").write_text(first)
    copied.run("dvc", "repro")
    assert not copied.ran(), "results of the former params come back"
    assert not list((copied.folder / VIEW / "lists").glob("*fold1")), "the view shows what is in the plan"
    after = {str(path) for path in (copied.folder / STORE).rglob("manifest.json")}
    assert after.issuperset(store), "finished results stay where they are"
    assert NOTHING in copied.run("snakemake", "-n")
    assert "up to date" in copied.run("dvc", "status")


@pytest.mark.slow
def test_a_stage_beside_snakemake_takes_nothing_from_it(copied: Toy):
    copied.change(train={"steps": 53})
    (copied.folder / "slow").mkdir()
    (copied.folder / "slow/train").touch()
    shutil.rmtree(copied.folder / VIEW / "lists")  # so that the view is part of what is asked for
    with subprocess.Popen(
        ["snakemake", "--cores", "2"], cwd=copied.folder, env=copied.environment(), stderr=subprocess.DEVNULL
    ) as running:
        try:
            wait_for(lambda: (copied.folder / "ran.txt").is_file())
            copied.run("i2r", "stage", "data")
        finally:
            (copied.folder / "slow/train").unlink()
        assert running.wait(120) == 0
    assert NOTHING in copied.run("snakemake", "-n")


# --- helpers -------------------------------------------------------------------------------------------------


def wait_for(ready: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def is_same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def children(pid: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(pid)], check=False, capture_output=True, text=True)
    return [int(line) for line in done.stdout.split()]


def test_snakemake_without_a_target_makes_everything():
    shown = subprocess.run(
        ["snakemake", "--dry-run", "--configfile", "workflow/presets/tiny.yaml"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^all +1$", shown.stdout, re.M) and re.search(r"^report_job +1$", shown.stdout, re.M)
