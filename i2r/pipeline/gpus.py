"""A GPU for each job on a machine with several, or a share of one.

A job that computes on a GPU takes the lock of one that is free, and sees only that one; a training that several
processes share takes as many as these. With runtime.jobs_per_gpu a GPU has that many locks. The operating system
releases a lock when the process ends, however it ends. Locks are per machine, so they count for all clones and users of
it.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import IO

from i2r.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"
LOCKS = Path("/tmp")  # the same for all users, unlike TMPDIR
POLL = 1.0  # seconds between looks for a free GPU


def present() -> list[str]:
    """Names of the GPUs of this machine, as in CUDA_VISIBLE_DEVICES, which selects some; torch is not imported."""
    if VISIBLE in os.environ:
        named = [name.strip() for name in os.environ[VISIBLE].split(",")]
        return [name for name in named if name and name != "-1"]
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def needed(device: str) -> int:
    """Number of GPUs that a job with this runtime.device uses."""
    return int(device.startswith("cuda") or (device == "auto" and bool(present())))


@contextmanager
def taken(device: str, jobs: int = 1, count: int = 1) -> Iterator[str | None]:
    """Hold `count` of this machine's GPUs, after waiting for them if need be; the process sees no other.

    `cuda:N` takes the GPU with this number and leaves the others visible, so that the number remains right.

    Args:
        device: runtime.device; nothing is taken if it needs no GPU.
        jobs: number of jobs that can hold a GPU together.

    Yields:
        The names of the GPUs, as in CUDA_VISIBLE_DEVICES; None if nothing was taken. If the device is not there, torch
        says so later.

    Raises:
        InputError: there are some GPUs, but fewer than `count`.
    """
    names = present() if needed(device) else []
    number = device.partition(":")[2]
    wanted = names[int(number) : int(number) + 1] if number else names
    if not wanted:
        yield None
        return
    if len(wanted) < count:
        raise InputError(
            f"runtime.processes: {count} processes need a GPU each, but there are {len(wanted)}; lower it"
        )
    locks = _wait(wanted, jobs, count)
    name = ",".join(locks)
    before = os.environ.get(VISIBLE)
    try:
        if not number:
            os.environ[VISIBLE] = name
        yield name
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before
        _close(locks)


def _wait(names: list[str], jobs: int, count: int) -> dict[str, IO[bytes]]:
    """The first `count` of these GPUs that have a place, with their locks; GPUs with the fewest jobs come first.

    One job at a time looks for GPUs, so that two do not take a half each of what both need.
    """
    waits = False
    while True:
        with _open("choice", 0) as choice:
            fcntl.flock(choice, fcntl.LOCK_EX)
            found = _free(names, jobs, count)
        if len(found) == count:
            return found
        _close(found)
        if not waits:
            print(f"waiting for a free GPU ({', '.join(names)})", file=sys.stderr, flush=True)
            waits = True
        time.sleep(POLL)


def _free(names: list[str], jobs: int, count: int) -> dict[str, IO[bytes]]:
    """Up to `count` GPUs that have a place, with their locks."""
    found: dict[str, IO[bytes]] = {}
    for place, name in product(range(jobs), names):
        if len(found) == count:
            break
        if name in found:
            continue
        file = _open(name, place)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found[name] = file
        except BlockingIOError:
            file.close()
    return found


def _close(locks: dict[str, IO[bytes]]) -> None:
    for lock in locks.values():
        lock.close()


def _open(name: str, place: int) -> IO[bytes]:
    """The file whose lock is that of a place on a GPU, also if another user has made it.

    A job of Slurm counts its GPUs from 0, so the same name is another GPU in another job.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    behind = f"-{place}" if place else ""
    path = LOCKS / f"i2r-gpu-{job}-{name.replace('/', '-')}{behind}.lock"
    with suppress(FileExistsError, PermissionError):  # the latter if another user has made it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o644))
        path.chmod(0o644)  # whatever the umask
    return path.open("rb")
