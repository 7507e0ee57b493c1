"""One GPU for each job, with GPUs that exist only by name."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Toy

from i2r.errors import InputError
from i2r.pipeline import gpus

OWNER = """
import sys
from pathlib import Path
from i2r.pipeline import gpus
gpus.LOCKS, gpus.POLL = Path(sys.argv[1]), 0.05
with gpus.taken(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])) as name:
    print(name, gpus.present(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpus, "LOCKS", tmp_path)
    return tmp_path


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


def start(
    owners: list[subprocess.Popen[str]],
    locks: Path,
    device: str = "cuda",
    visible: str = "0,1",
    jobs: int = 1,
    count: int = 1,
    **more: str,
) -> subprocess.Popen[str]:
    """A process that holds a GPU, or its share of one, until its input ends."""
    owners.append(
        subprocess.Popen(
            [sys.executable, "-c", OWNER, str(locks), device, str(jobs), str(count)],
            env=os.environ | {gpus.VISIBLE: visible} | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    return owners[-1]


def test_each_process_has_a_gpu_of_its_own_and_the_next_waits(locks: Path, owners: list):
    first, second = (start(owners, locks) for _ in range(2))
    assert sorted(one.stdout.readline() for one in (first, second)) == ["0 ['0']\n", "1 ['1']\n"]
    third = start(owners, locks)
    assert third.stderr.readline() == "waiting for a free GPU (0, 1)\n"
    second.stdin.close()
    assert third.stdout.readline()[0] in "01" and second.wait(10) == 0


def test_jobs_share_gpus_evenly_and_the_next_waits(locks: Path, owners: list):
    first = [start(owners, locks, jobs=2) for _ in range(2)]
    assert sorted(one.stdout.readline() for one in first) == ["0 ['0']\n", "1 ['1']\n"]
    second = [start(owners, locks, jobs=2) for _ in range(2)]
    assert sorted(one.stdout.readline() for one in second) == ["0 ['0']\n", "1 ['1']\n"]
    assert "waiting for a free GPU" in start(owners, locks, jobs=2).stderr.readline()


def test_a_shared_training_has_as_many_gpus_as_processes(locks: Path, owners: list):
    alone = start(owners, locks, visible="0,1,2")
    assert alone.stdout.readline() == "0 ['0']\n"
    shared = start(owners, locks, visible="0,1,2", count=2)
    assert shared.stdout.readline() == "1,2 ['1', '2']\n"
    more = start(owners, locks, visible="0,1,2", count=2)
    assert more.stderr.readline() == "waiting for a free GPU (0, 1, 2)\n"
    alone.stdin.close()
    assert alone.wait(10) == 0
    # what it has to wait with is left to others
    assert start(owners, locks, visible="0,1,2").stdout.readline() == "0 ['0']\n"
    shared.stdin.close()
    assert more.stdout.readline() == "1,2 ['1', '2']\n"


def test_two_shared_trainings_do_not_take_a_half_each(locks: Path, owners: list):
    started = [start(owners, locks, count=2) for _ in range(4)]
    for _ in started:
        while not (holders := [one for one in started if _line(one)]):
            time.sleep(0.01)
        assert len(holders) == 1
        holders[0].stdin.close()
        assert holders[0].wait(10) == 0
        started = [one for one in started if one is not holders[0]]


def _line(process: subprocess.Popen[str]) -> bool:
    """Whether a process has said which GPUs it holds."""
    return bool(select.select([process.stdout], [], [], 0)[0])


def test_more_processes_than_gpus_have_a_sentence(locks: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    few = r"runtime\.processes: 3 processes need a GPU each, but there are 2"
    with pytest.raises(InputError, match=few), gpus.taken("cuda", count=3):
        pass
    with gpus.taken("cpu", count=3) as name:
        assert name is None


def test_the_gpu_of_a_killed_process_is_free(locks: Path, owners: list):
    first = start(owners, locks, visible="GPU-1a2b")
    assert first.stdout.readline() == "GPU-1a2b ['GPU-1a2b']\n"
    second = start(owners, locks, visible="GPU-1a2b")
    assert "waiting" in second.stderr.readline()
    first.send_signal(signal.SIGKILL)
    assert second.stdout.readline() == "GPU-1a2b ['GPU-1a2b']\n"


def test_a_numbered_device_is_that_gpu_and_the_others_stay_visible(locks: Path, owners: list):
    assert start(owners, locks, device="cuda:1").stdout.readline() == "1 ['0', '1']\n"
    assert "waiting for a free GPU (1)" in start(owners, locks, device="cuda:1").stderr.readline()
    assert start(owners, locks).stdout.readline() == "0 ['0']\n"


def test_jobs_of_slurm_count_their_gpus_from_0(locks: Path, owners: list):
    for job in ("7", "8"):
        started = start(owners, locks, visible="0", SLURM_JOB_ID=job)
        assert started.stdout.readline() == "0 ['0']\n"


def test_nothing_is_taken_without_a_gpu(locks: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(gpus.VISIBLE, "")
    assert gpus.present() == [] and gpus.needed("auto") == 0 and gpus.needed("cuda") == 1
    for device in ("auto", "cpu", "cuda"):
        with gpus.taken(device) as name:
            assert name is None
    monkeypatch.setenv(gpus.VISIBLE, "3")
    with gpus.taken("cpu") as name:
        assert name is None and gpus.present() == ["3"]
    assert not list(locks.iterdir())
    with gpus.taken("auto") as name:
        assert name == "3"


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user")
def test_another_users_lock_counts(locks: Path, owners: list):
    locks.chmod(0o1777)
    path = locks / "i2r-gpu--0.lock"
    path.touch()
    os.chown(path, 65534, 65534)
    assert start(owners, locks, visible="0").stdout.readline() == "0 ['0']\n"
    assert "waiting" in start(owners, locks, visible="0").stderr.readline()


@pytest.mark.slow
def test_jobs_of_the_workflow_run_on_all_gpus_at_once(toy: Toy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(gpus.VISIBLE, "4,7")
    toy.change(runtime={"device": "cuda"})
    (toy.folder / "slow").mkdir()
    hold = toy.folder / "slow/train"
    hold.touch()
    with subprocess.Popen(["snakemake", "--cores", "4"], cwd=toy.folder, env=toy.environment()) as process:
        end = time.monotonic() + 120
        while (found := _gpus(toy, "train")) != {"4", "7"}:
            assert time.monotonic() < end and process.poll() is None, found
            time.sleep(0.2)
        hold.unlink()
        assert process.wait(120) == 0
    assert _gpus(toy, "lists") == {"4,7"}  # it needs none, so it takes none


@pytest.mark.slow
def test_a_shared_training_of_the_workflow_has_all_its_gpus(toy: Toy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(gpus.VISIBLE, "4,7")
    toy.change(runtime={"device": "cuda", "processes": 2})
    toy.run("snakemake", "--cores", "4")
    assert _gpus(toy, "train") == _gpus(toy, "base_learner") == {"4,7"}
    assert _gpus(toy, "evaluate") <= {"4", "7"}
    asked = toy.run("snakemake", "-n", "--forceall", "--cores", "4")
    assert re.search(r"rule train_job:[^@]*?threads: 2\n[^@]*?gpu=2,", asked)
    assert re.search(r"rule evaluate_job:[^@]*?gpu=1,", asked)


def _gpus(toy: Toy, step: str) -> set[str]:
    """What the finished and running jobs of a step saw as GPUs."""
    ran = toy.folder / "ran.txt"
    lines = ran.read_text(encoding="utf-8").splitlines() if ran.is_file() else []
    return {line.split()[-1] for line in lines if line.startswith(f"{step} ")}
