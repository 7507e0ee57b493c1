"""The profile for Slurm, on a real Slurm of three nodes that is started here.

Three runs go on at the same time: one with the real steps, whose training loses its node and then runs out of time; the
same undisturbed, without Slurm, for comparison; and one in which every step is instant, for everything else.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Toy, make_copy, make_toy
from disturbed import products
from slurm_cluster import Cluster, missing, running, wait_for

from i2r.pipeline.steps import STEPS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]
# Without accounting, and looking for finished jobs more often than is polite on a real cluster.
PROFILE = (
    *("--workflow-profile", "workflow/profiles/slurm", "--cores", "1"),
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"),
)
REAL = {
    "train": {"steps": 60},
    "targets": {"table3": {"methods": ["i2r-no-pmgm"], "folds": [0]}},
    "make": ["table3"],
    "evaluate": {"controls": 0},
    "runtime": {"save_every": 0.5},
}
# What the Python of a job on a node finds first: it cannot import MLflow, nor reach any address.
NODES_PATH = {
    "mlflow.py": "raise ModuleNotFoundError('no MLflow on a node', name='mlflow')\n",
    "sitecustomize.py": (
        "import errno, socket\n"
        "def connect(self, address):\n"
        "    raise OSError(errno.ENETUNREACH, 'no network on a node')\n"
        "socket.socket.connect = connect\n"
    ),
}
SNAKEMAKE = 400  # MB, as in common.smk
DELAY = 8  # seconds until the products of a job appear, more than Snakemake's own 5


@dataclass
class Runs:
    """The three runs, with their folders and processes."""

    cluster: Cluster
    folders: dict[str, Toy]
    processes: dict[str, subprocess.Popen[bytes]]

    def log(self, name: str) -> str:
        return (self.folders[name].folder / "output.log").read_text(encoding="utf-8", errors="replace")

    def wait(self, name: str) -> str:
        """The output of a run that has ended well."""
        code = self.processes[name].wait(900)
        slurm = sorted((self.folders[name].folder / ".snakemake/slurm_logs").rglob("*.log"))
        said = self.log(name)[-4000:] + "".join(path.read_text(encoding="utf-8")[-2000:] for path in slurm)
        assert code == 0, f"{name}: {code}\n{said}"
        return self.log(name)

    def jobs_of(self, name: str, rule: str) -> list[dict[str, str]]:
        """Slurm's jobs of a rule in a run, in the order of their submission."""
        folder = str(self.folders[name].folder)
        found = self.cluster.jobs().values()
        return [job for job in found if job["WorkDir"] == folder and f"{rule}_job" in job["Comment"]]


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    real, alone, toy = make_copy(tmp_path / "real"), make_copy(tmp_path / "alone"), make_toy(tmp_path / "toy")
    for copy in (real, alone):
        copy.change(**REAL)
    toy.change(runtime={"device": "cuda"})
    (tmp_path / "scratch").mkdir()
    (toy.folder / "results").symlink_to(tmp_path / "scratch")
    _ask(toy, "skew", {step: 60 if number % 2 else -60 for number, step in enumerate(STEPS)})
    (toy.folder / "late").mkdir()
    _ask(toy, "memory", {"report": STEPS["report"].memory + SNAKEMAKE})
    with running() as cluster, _late(toy, "cam_head", DELAY):
        for name, text in NODES_PATH.items():
            (cluster.nodes_path / name).write_text(text, encoding="utf-8")
        with (
            _started(real, "snakemake", *PROFILE, around=cluster.around) as on_slurm,
            _started(toy, "snakemake", *PROFILE, around=cluster.around) as instant,
            _started(alone, "snakemake", "ablate", "--cores", "1") as undisturbed,
        ):
            yield Runs(
                cluster,
                {"real": real, "alone": alone, "toy": toy},
                {"real": on_slurm, "alone": undisturbed, "toy": instant},
            )


def _ask(toy: Toy, what: str, values: Mapping[str, float]) -> None:
    """Ask for a disturbance of steps, see toy_step.py."""
    (toy.folder / what).mkdir()
    for step, value in values.items():
        (toy.folder / what / step).write_text(str(value), encoding="utf-8")


@contextmanager
def _late(toy: Toy, step: str, delay: float) -> Iterator[None]:
    """A file system that shows the products of a step's job seconds after they are written.

    Here and not on the node, which can be lost in these seconds.
    """
    over = threading.Event()

    def hide() -> None:
        while not over.wait(0.002):
            for made in toy.folder.glob(f"results/store/{step}/*/manifest.json"):
                hidden = made.parent.with_name(f"{made.parent.name}.late")
                made.parent.rename(hidden)
                (toy.folder / f"late/{step}.done").touch()
                over.wait(delay)
                hidden.rename(made.parent)
                return

    thread = threading.Thread(target=hide)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _started(toy: Toy, *command: str, around: Any = dict) -> Iterator[subprocess.Popen[bytes]]:
    with (toy.folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=toy.folder,
            env=around(toy.environment()),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_profile_on_a_real_slurm(runs: Runs):
    """One test, so that one Slurm and its three runs serve all of it, however tests are shared among processes."""
    the_training_loses_its_node_and_then_its_time(runs)
    runs_are_imported_where_snakemake_is(runs)
    each_job_is_made_once(runs)
    jobs_get_what_they_need(runs)


def the_training_loses_its_node_and_then_its_time(runs: Runs) -> None:
    """It gives the numbers of the undisturbed run."""
    cluster, real = runs.cluster, runs.folders["real"]
    wait_for(lambda: _training(real), 900, lambda: runs.log("real")[-3000:])
    key = Path(_training(real).cmdline()[-3]).stem
    saved = real.folder / "results/state" / key / "state.pt"
    wait_for(saved.exists, 120)

    [first] = runs.jobs_of("real", "train")
    assert first["JobState"] == "RUNNING"
    cluster.power_off(first["NodeList"])
    wait_for(lambda: _training(real) is None, 30)  # a killed process needs a moment to end
    assert saved.exists()
    wait_for(lambda: cluster.job(first["JobId"])["Restarts"] == "1", 120, cluster.logs)
    before = saved.stat().st_mtime_ns
    wait_for(lambda: _training(real) and saved.stat().st_mtime_ns > before, 180, cluster.logs)
    again = cluster.job(first["JobId"])
    assert again["JobState"] == "RUNNING" and again["NodeList"] != first["NodeList"]

    # the training stands still, so that it cannot be done before its time is up, on whatever machine
    _training(real).suspend()
    hours, minutes, _ = map(int, cluster.job(first["JobId"])["RunTime"].split(":"))
    soon = 60 * hours + minutes + 2  # in one to two minutes, so Slurm asks it to end at once
    cluster.ask("scontrol", "update", f"JobId={first['JobId']}", f"TimeLimit={soon}")
    controller = cluster.folder / "slurmctld.log"
    asked = f"signal 15 to JobId={first['JobId']}"
    wait_for(lambda: asked in controller.read_text(errors="replace"), 90, cluster.logs)
    _training(real).resume()
    wait_for(lambda: len(runs.jobs_of("real", "train")) == 2, 120)
    ended, retried = runs.jobs_of("real", "train")
    assert ended["JobState"] == "FAILED"
    [log] = (real.folder / ".snakemake/slurm_logs/rule_train_job").rglob(f"{ended['JobId']}.log")
    assert "it continues from its last saved state" in log.read_text(encoding="utf-8")
    runs.wait("real")
    assert retried["JobId"] == runs.jobs_of("real", "train")[-1]["JobId"]

    runs.wait("alone")
    undisturbed, made = products(runs.folders["alone"].folder), products(real.folder)
    assert f"train/{key}/weights.safetensors" in undisturbed
    assert {name: made[name] for name in undisturbed} == undisturbed


def _training(toy: Toy) -> psutil.Process | None:
    """The process of a run's training, if it runs."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[1:5] == ["-m", "i2r", "run", "train"] and process.cwd() == str(toy.folder):
                return process
    return None


def runs_are_imported_where_snakemake_is(runs: Runs) -> None:
    """For nodes have neither network nor MLflow."""
    connect = "import socket; socket.create_connection(('127.0.0.1', 9))"
    for code, said in (("import mlflow", "no MLflow on a node"), (connect, "no network on a node")):
        with pytest.raises(AssertionError, match=said):
            runs.cluster.ask("srun", "--mem=200", "python", "-c", code)
    runs.wait("real")
    with sqlite3.connect(runs.folders["real"].folder / "results/mlflow.db") as database:
        [(number,)] = database.execute("select count(*) from runs where status = 'FINISHED'").fetchall()
    assert number > 0
    assert not runs.jobs_of("real", "track") and len(runs.jobs_of("real", "report")) == 1


def each_job_is_made_once(runs: Runs) -> None:
    """Even if products are a minute older or newer than they should be, and those of one job appear late."""
    runs.wait("toy")
    toy = runs.folders["toy"]
    ran = Counter(line.split()[0] for line in (toy.folder / "ran.txt").read_text().splitlines())
    made = Counter(path.parts[-3] for path in (toy.folder / "results/store").glob("*/*/manifest.json"))
    # again: the job that ran out of memory, and perhaps those that were on the node that was lost
    lost = Counter({step: sum(int(job["Restarts"]) for job in runs.jobs_of("toy", step)) for step in made})
    made += Counter(report=1)
    assert made <= ran <= made + lost
    output = toy.run("snakemake", "-n", "--workflow-profile", "workflow/profiles/slurm")
    assert "Nothing to be done" in output
    assert (toy.folder / "late/cam_head.done").exists() and not list(
        toy.folder.glob("results/store/*/*.late")
    )
    [job] = runs.jobs_of("toy", "cam_head")
    assert job["JobState"] == "COMPLETED"


def jobs_get_what_they_need(runs: Runs) -> None:
    """A GPU each, one allocation for small jobs, more memory when it was too little, and track stays here."""
    runs.wait("toy")
    toy = runs.folders["toy"]
    where = {}
    for line in (toy.folder / "ran.txt").read_text().splitlines():
        step, node, gpu = re.fullmatch(r"(\S+) .* on (\S+) with GPU (\S+)", line).groups()
        where.setdefault(step, []).append((node, gpu))
    for step, places in where.items():
        assert all((gpu != "None") == STEPS[step].torch for _, gpu in places), (step, places)
        assert all((node != "None") != STEPS[step].local for node, _ in places), (step, places)
    [small] = runs.jobs_of("toy", "lists")
    assert [small] == runs.jobs_of("toy", "data") == runs.jobs_of("toy", "episodes")
    for job in runs.jobs_of("toy", "train"):
        assert job["TresPerJob"] == "gres:gpu:1" and job["Requeue"] == "1"

    killed, made = runs.jobs_of("toy", "report")
    first = STEPS["report"].memory + SNAKEMAKE
    memory = [int(job["MinMemoryNode"].removesuffix("M")) for job in (killed, made)]
    assert memory == [first, first * 3 // 2]
    assert killed["JobState"] == "FAILED" and made["JobState"] == "COMPLETED"
    [log] = (toy.folder / ".snakemake/slurm_logs/rule_report_job").rglob(f"{killed['JobId']}.log")
    assert "exceeded memory limit" in log.read_text(encoding="utf-8")
