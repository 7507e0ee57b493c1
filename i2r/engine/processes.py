"""A training that several processes share (runtime.processes), each with a GPU of its own.

The job's own process is the first of them. It holds the job's lock, answers signals, saves states and writes the
results. It starts the others, which run the same step, but write nothing and end with the last training step, or with
the first process, however that ends. So a job looks the same from outside, whatever the number of its processes.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from i2r.errors import InputError
from i2r.files import write_text
from i2r.nets.device import open_device
from i2r.pipeline.jobs import Job, JobError, function_of

# Seconds in which the first process notices that another has ended, because it can no longer be reached; after that it
# is ended. It does not notice it where it waits for a GPU that waits for the other's GPU.
NOTICED = 10.0
# Longest wait for another process, such as for a validation. One that has ended is noticed sooner.
LIMIT = timedelta(days=7)

Run = Callable[[Job], dict[str, Any]]


def shared(run: Run) -> Run:
    """The same function of a job, shared by runtime.processes processes until its training ends; see `leave`."""

    @wraps(run)
    def shared_run(job: Job) -> dict[str, Any]:
        if job.runtime.processes == 1 or dist.is_initialized():
            return run(job)
        batch = job.params[job.step]["batch"]
        if batch % job.runtime.processes:
            raise InputError(
                f"runtime.processes: {job.runtime.processes} processes cannot share {job.step}.batch {batch} evenly; "
                "change one of them"
            )
        with _helped(job):
            return run(job)

    return shared_run


def leave() -> None:
    """The end of what processes share: the others end here, the first one goes on alone."""
    if dist.is_initialized():
        helps = dist.get_rank() > 0
        dist.destroy_process_group()
        if helps:
            sys.exit()


@contextmanager
def _helped(job: Job) -> Iterator[None]:
    """Start the other processes, join them, and end them with the block.

    Raises:
        JobError: one of them ended with a sentence.
        ChildProcessError: one of them ended otherwise; an OSError, so that Snakemake repeats the job.
    """
    spawn, ended = multiprocessing.get_context("spawn"), threading.Event()
    with TemporaryDirectory(prefix="i2r-") as folder:
        helpers = [
            spawn.Process(target=_help, args=(job, number, Path(folder)))
            for number in range(1, job.runtime.processes)
        ]
        try:
            for helper in helpers:
                helper.start()
            threading.Thread(target=_watch, args=(helpers, Path(folder), ended), daemon=True).start()
            _join(job, 0, Path(folder))
            yield
        except RuntimeError as error:  # torch's, when another process cannot be reached
            if fault := _fault(helpers, Path(folder), NOTICED):
                raise fault from error
            raise
        finally:
            for helper in helpers:
                if helper.pid is not None:
                    helper.kill()
                    helper.join()
            # NCCL would wait for those that have ended; it is left to the end of this process, which is near
            if dist.is_initialized() and dist.get_backend() == "gloo":
                dist.destroy_process_group()
            ended.set()


def _join(job: Job, number: int, folder: Path) -> None:
    """Meet the other processes. On GPUs, `cuda` means number `number` of them from here on."""
    device = open_device(job.runtime.device, "runtime.device")
    if device.type == "cuda":
        torch.cuda.set_device(number)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=number,
        world_size=job.runtime.processes,
        timeout=LIMIT,
    )


def _help(job: Job, number: int, folder: Path) -> None:
    """What another process than the first does; the sentence of an expected error is for the first to say."""
    for one in (signal.SIGINT, signal.SIGTERM):  # the first process answers them
        signal.signal(one, signal.SIG_IGN)
    threading.Thread(target=_end_with_first, daemon=True).start()
    try:
        _join(job, number, folder)
        function_of(job)(job)
    except InputError as error:
        write_text(folder / f"{number}.txt", str(error))
        sys.exit(1)


def _end_with_first() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _fault(helpers: Sequence[SpawnProcess], folder: Path, seconds: float = 0) -> Exception | None:
    """The error of a process that has failed; at most this many seconds are waited for one."""
    gone = wait([helper.sentinel for helper in helpers], seconds)
    for helper in helpers:
        if helper.sentinel in gone:
            helper.join()  # the sentinel is ready shortly before the status is
    for said in sorted(folder.glob("*.txt")):
        return JobError(said.read_text(encoding="utf-8"))
    # the first process is not among them
    failed = {helper.exitcode: number for number, helper in enumerate(helpers, start=2) if helper.exitcode}
    if not failed:
        return None
    status = min(failed)  # one that was killed first: the others may have ended because of it
    return ChildProcessError(
        errno.ECHILD,
        f"process {failed[status]} of the {len(helpers) + 1} of this training ended with status {status}; run "
        "the same command again to continue from the last saved state",
    )


def _watch(helpers: Sequence[SpawnProcess], folder: Path, ended: threading.Event) -> None:
    """End the first process if another has failed and it does not notice it; until it has left the others."""
    joined = False
    while not ended.wait(1):
        if joined and not dist.is_initialized():
            return
        joined = dist.is_initialized()
        # the main thread asks for the fault first, for of two threads that ask at once only one gets the status
        if not wait([helper.sentinel for helper in helpers], 0) or ended.wait(NOTICED):
            continue
        if fault := _fault(helpers, folder):
            print(f"i2r: {getattr(fault, 'strerror', fault)}", file=sys.stderr, flush=True)
            os._exit(1)
