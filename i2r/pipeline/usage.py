"""What a job uses: time, processor time, memory, GPU and energy, over all its attempts."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from i2r.files import read_json, write_json
from i2r.pipeline import energy

SPENT = "spent.json"  # in a state folder: what the attempts so far have used
EVERY = 20.0  # seconds between records; a processor's energy counter comes round after ten minutes and more
SUMS = ("seconds", "cpu_seconds", "gpu_seconds", "cpu_joules", "gpu_joules")  # the others are peaks

Usage = dict[str, float | None]


@contextmanager
def measured(
    kept: Path, gpu: bool = True, jobs: int = 1, every: float = EVERY, all_gpus: bool = False
) -> Iterator[Callable[[], Usage]]:
    """Measure the block; gives a function that returns what was used so far.

    seconds: wall time. cpu_seconds: of this process and the workers that it has waited for. gpu_seconds: wall time,
    times the number of GPUs used. memory_mb, gpu_memory_mb: peaks, of this process alone. cpu_joules: of the machine's
    processors, by the share of their busy time that was this job's. gpu_joules: of the cards used, with whatever else
    ran on them. None: not measured. If jobs share a GPU, each is counted with an equal part of gpu_seconds and
    gpu_joules.

    Args:
        kept: file in which the record is kept during the block, so that an interrupted attempt counts as well; what it
            has at the beginning is added.
        gpu: whether the block can use a GPU; reading its counters can take a second.
        jobs: number of jobs that share a GPU.
        all_gpus: whether processes that the block starts use those GPUs that this process sees and does not use.
    """
    meter, stop = _Meter(_read(kept), gpu, jobs, all_gpus), threading.Event()

    def keep() -> None:
        # a folder that was removed is not made again, and a full disk is for the job to say
        with suppress(OSError):
            if kept.parent.is_dir():
                write_json(kept, meter.read(), durable=False)

    def keep_on() -> None:
        while not stop.wait(every):
            keep()

    thread = threading.Thread(target=keep_on, daemon=True)
    thread.start()
    try:
        yield meter.read
    finally:
        stop.set()
        thread.join()
        keep()


def _read(kept: Path) -> Usage:
    try:
        return read_json(kept)
    except (OSError, ValueError):  # no attempt before this one, or a file that was cut off
        return {}


class _Meter:
    """Counters at the beginning, and the processors' energy since."""

    def __init__(self, before: Usage, gpu: bool, jobs: int, all_gpus: bool) -> None:
        self.before, self.jobs, self.all_gpus, self.lock = before, jobs, all_gpus, threading.Lock()
        self.clock, self.cpu, self.busy = time.monotonic(), _cpu_seconds(), _busy_seconds()
        self.cards = energy.cards() if gpu else {}
        self.packages, self.joules = energy.packages(), 0.0

    def read(self) -> Usage:
        with self.lock:
            packages = energy.packages()
            self.joules += energy.between(self.packages, packages)
            self.packages = packages
            now = self._now()
        return {
            name: _both(name, self.before.get(name), value) if self.before else value
            for name, value in now.items()
        }

    def _now(self) -> Usage:
        seconds, cpu, busy = time.monotonic() - self.clock, _cpu_seconds() - self.cpu, _busy_seconds()
        share = min(1.0, cpu / max(busy - self.busy, cpu, 1e-9)) if busy and self.busy else None
        used = _gpus_used(self.all_gpus)
        cards = energy.cards() if used and self.cards else {}
        known = used and all(uuid in cards and uuid in self.cards for uuid in used)
        return {
            "seconds": round(seconds, 3),
            "cpu_seconds": round(cpu, 3),
            "gpu_seconds": round(seconds * len(used) / self.jobs, 3),
            "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "gpu_memory_mb": round(sum(used.values()) / 2**20) if used else None,
            "cpu_joules": round(self.joules * share, 1) if self.packages and share is not None else None,
            "gpu_joules": round(sum(cards[uuid] - self.cards[uuid] for uuid in used) / 1000 / self.jobs, 1)
            if known
            else None,
        }


def _both(name: str, before: float | None, now: float | None) -> float | None:
    """A sum or peak of two attempts; a sum with a part that was not measured is not known."""
    if name in SUMS:
        return None if before is None or now is None else round(before + now, 3)
    return max((value for value in (before, now) if value is not None), default=None)


def _cpu_seconds() -> float:
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def _busy_seconds() -> float | None:
    """Processor time of everything on this machine since it started; None where /proc does not say it."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0]
        user, nice, system, _, _, *interrupts = map(int, first.split()[1:8])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _gpus_used(all_gpus: bool) -> dict[str, int]:
    """UUID of each GPU that this process has used, or of all -> most memory that it has taken of it, in bytes."""
    torch: Any = sys.modules.get("torch")
    # while torch is being imported, which takes seconds on a busy machine, it has no torch.cuda yet
    if not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return {}
    peaks = {number: torch.cuda.max_memory_reserved(number) for number in range(torch.cuda.device_count())}
    return {
        str(torch.cuda.get_device_properties(number).uuid): peak
        for number, peak in peaks.items()
        if peak or all_gpus
    }
