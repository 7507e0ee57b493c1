"""Runs of a preset in copies of the project that something is done to, and what must be equal in their products."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from conftest import Toy, make_copy

from i2r.files import sha256
from i2r.pipeline.steps import STEPS


def command(stage: str) -> tuple[str, ...]:
    return ("i2r", "stage", stage, "--cores", "2")


COMMAND = command("all")


def is_time(name: str) -> bool:
    return "seconds" in name or name.endswith("_s")


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if not is_time(name)}
    return [untimed(part) for part in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    """What must be equal in a product: everything but measured times."""
    if path.suffix == ".json":
        return untimed(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [untimed(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".csv":
        table = pd.read_csv(path)
        return table[[name for name in table if not is_time(name)]].to_csv()
    return sha256(path)


INTERRUPTED = ("report.html", "report.md", "checklist.md", "cost.csv", "cost.md", "cost.tex", "tracked.json")


def products(folder: Path) -> dict[str, Any]:
    """Product -> content, for every finished job.

    The report's pages, what the jobs cost and the count of imported runs are left out: they tell of interruptions.
    """
    found = {}
    for manifest in sorted((folder / "results/store").glob("*/*/manifest.json")):
        for name in json.loads(manifest.read_text(encoding="utf-8"))["products"]:
            if name not in INTERRUPTED:
                path = manifest.parent / name
                found[str(path.relative_to(folder / "results/store"))] = content(path)
    return found


def finished(folder: Path) -> Counter[str]:
    """Number of finished jobs of each step."""
    return Counter(path.parts[-3] for path in (folder / "results/store").glob("*/*/manifest.json"))


def seconds(folder: Path) -> dict[str, float]:
    """Mean seconds of the jobs of each step, from its first to its last moment."""
    files = [(path.parent.name, path) for path in (folder / "results/benchmarks").glob("*/*.tsv")]
    rows = pd.DataFrame([(step, pd.read_csv(path, sep="\t")["s"][0]) for step, path in files])
    return rows.groupby(0)[1].mean().to_dict()


def begin(folder: Path, whole: Toy, start: str | None = None) -> Toy:
    """A copy of the project with the results of all steps before `start`, or of all, from a run that is complete."""
    toy, late = make_copy(folder), steps_from(start) if start else []
    store = whole.folder / "results/store"
    shutil.copytree(
        store, toy.folder / "results/store", ignore=lambda at, _: late if Path(at) == store else []
    )
    return toy


def steps_from(start: str) -> list[str]:
    return list(STEPS)[list(STEPS).index(start) :]


class Run:
    """One call of the command, in a session of its own; in a pseudo-terminal if `terminal`."""

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        terminal: bool = False,
        words: Sequence[str] = COMMAND,
    ) -> None:
        self.master = None
        self.left: list[psutil.Process] = []  # a Snakemake that lives on after its parent was killed
        self.log = folder / "output.log"
        self.before = self.log.stat().st_size if self.log.is_file() else 0  # what earlier runs have said
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True}
        if terminal:  # the output goes to the log, the keyboard is the terminal
            self.master, slave = pty.openpty()
            streams |= {"stdin": slave, "preexec_fn": _take_terminal}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                words, cwd=folder, env=environment, stdout=log, stderr=log, **streams
            )
        if terminal:
            os.close(slave)

    def output(self) -> str:
        return self.log.read_bytes()[self.before :].decode(errors="replace")

    def close(self) -> None:
        """Close the pseudo-terminal, as a window is closed: what runs in it gets SIGHUP."""
        if self.master is not None:
            os.close(self.master)

    def children(self, recursive: bool = False) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive)
        return []

    def jobs(self) -> dict[int, str]:
        """Process -> step, of the jobs that this run has started."""
        found = {}
        for process in self.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if words[1:4] == ["-m", "i2r", "run"]:
                    found[process.pid] = words[4]
        return found

    def kill(self, kind: str, job: int) -> None:
        pid = self.process.pid
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if kind == "group":
                os.killpg(pid, signal.SIGKILL)
            elif kind == "parent":
                self.left = self.children()
                os.kill(pid, signal.SIGKILL)
            elif kind == "snakemake":
                for child in self.children():
                    child.kill()
            elif kind == "job":
                os.kill(job, signal.SIGKILL)
            elif kind == "ctrl-c":
                os.write(self.master, b"\x03")
            else:
                os.kill(pid, signal.SIGTERM)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
