"""Whether a Snakemake runs in this folder, and the lock that a killed one left.

Snakemake's own lock says nothing about who made it. So each Snakemake also holds the lock of a file, shared with
others, which the operating system releases when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import sys
from pathlib import Path
from typing import IO

from i2r.files import write_text
from i2r.pipeline.spec import RESULTS, JobError

SNAKEMAKE_LOCKS = Path(".snakemake/locks")
ADVICE = "if no Snakemake runs there any more, `snakemake --unlock` removes its lock"
_held: list[IO[bytes]] = []  # until the process ends


def _files(results: Path) -> tuple[Path, Path]:
    """The locked file, and the one that names the process that wrote Snakemake's lock last."""
    return results / "state" / "snakemake.lock", results / "state" / "snakemake.owner"


def hold(results: Path = RESULTS) -> None:
    """Show until the end of this process that Snakemake runs here; called when the Snakefile is read.

    If no other one does, a lock that a killed Snakemake of this machine left is removed first. Children that are
    started as programs do not inherit the lock, so a job that outlives Snakemake does not hold it.
    """
    path, _ = _files(results)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _held.append(path.open("ab"))
        with contextlib.suppress(BlockingIOError):  # another one runs here
            fcntl.flock(_held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_stale(results)
        fcntl.flock(_held[-1], fcntl.LOCK_SH)
    except OSError as error:  # a dry run needs no lock, and another run says what it cannot write
        print(f"i2r: {path}: cannot be locked ({error.strerror})", file=sys.stderr)


def _remove_stale(results: Path) -> None:
    """Remove the lock of a killed Snakemake, or say that a person has to; no other may run here."""
    stale = list(SNAKEMAKE_LOCKS.glob("*.lock"))
    if who := _elsewhere(results):
        print(f"i2r: {SNAKEMAKE_LOCKS}: locked by {who}; {ADVICE}", file=sys.stderr)
    elif stale:
        print("i2r: an earlier Snakemake was killed; removing its lock", file=sys.stderr, flush=True)
        for path in stale:
            path.unlink(missing_ok=True)


def _elsewhere(results: Path) -> str | None:
    """Who has left Snakemake's lock, if that was on another machine."""
    who = owner(results)
    other = " on " in who and who.partition(" on ")[2] != platform.node()
    return who if other and any(SNAKEMAKE_LOCKS.glob("*.lock")) else None


def sign(results: Path = RESULTS) -> None:
    """Record this process as the owner of Snakemake's lock; called when Snakemake has made it."""
    write_text(_files(results)[1], f"process {os.getpid()} on {platform.node()}\n")


def began(results: Path = RESULTS) -> float:
    """When the last Snakemake began, by the clock of the disk; 0.0 if none has."""
    path = _files(results)[1]
    return path.stat().st_mtime if path.is_file() else 0.0


def owner(results: Path = RESULTS) -> str:
    path = _files(results)[1]
    return path.read_text(encoding="utf-8").strip() if path.is_file() else "unknown"


def wait_for_others(results: Path = RESULTS) -> None:
    """Wait until no Snakemake runs here.

    Raises:
        JobError: one has left its lock on another machine, or locks do not work here: a person has to decide.
    """
    path, _ = _files(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"i2r: Snakemake runs here ({owner(results)}); waiting", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if any(SNAKEMAKE_LOCKS.glob("*.lock")):
                raise JobError(f"{path}: {error.strerror}; {SNAKEMAKE_LOCKS} is locked; {ADVICE}") from None
    if who := _elsewhere(results):
        raise JobError(f"{SNAKEMAKE_LOCKS}: locked by {who}; {ADVICE}")
