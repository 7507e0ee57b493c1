"""Kill a run of the preset tiny in many ways, type the same command again each time, and compare the products.

`make chaos` runs it. A pass begins with the results of all steps before `evaluate`, or with none: soon after a job has
begun, or while it runs, the run is killed in the way that has been tried least in this step, and `i2r stage all` is
called again. A Snakemake that lives on without its killed parent is killed as well when the next command waits for it;
at the end of a pass it may go on. A pass ends when the command has ended by itself; the products must then equal those
of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from conftest import Toy, make_copy

from i2r.files import sha256, write_text
from i2r.pipeline.steps import STEPS

COMMAND = ["i2r", "stage", "all", "--cores", "2"]
KINDS = ("group", "parent", "snakemake", "job", "ctrl-c", "sigterm")
STARTS = ("evaluate", "data")  # a pass begins with the results of all steps before one of these


Cell = tuple[str, str]  # kind of kill, step


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


def products(folder: Path) -> dict[str, Any]:
    """Product -> content, for every finished job; the report's page and the count of imported runs are left out."""
    found = {}
    for manifest in sorted((folder / "results/store").glob("*/*/manifest.json")):
        for name in json.loads(manifest.read_text(encoding="utf-8"))["products"]:
            if name not in ("report.html", "tracked.json"):
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


def begin(folder: Path, whole: Toy, start: str) -> Toy:
    """A copy of the project with the results of all steps before `start`, from a run that is complete."""
    toy, late = make_copy(folder), steps_from(start)
    store = whole.folder / "results/store"
    shutil.copytree(
        store, toy.folder / "results/store", ignore=lambda at, _: late if Path(at) == store else []
    )
    return toy


def steps_from(start: str) -> list[str]:
    return list(STEPS)[list(STEPS).index(start) :]


class Run:
    """One call of the command, in a session of its own; in a pseudo-terminal if `terminal`."""

    def __init__(self, folder: Path, environment: dict[str, str], terminal: bool) -> None:
        self.master = None
        self.left: list[psutil.Process] = []  # a Snakemake that lives on after its parent was killed
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True}
        if terminal:  # the output goes to the log, the keyboard is the terminal
            self.master, slave = pty.openpty()
            streams |= {"stdin": slave, "preexec_fn": _take_terminal}
        with (folder / "output.log").open("ab") as log:
            self.process = subprocess.Popen(
                COMMAND, cwd=folder, env=environment, stdout=log, stderr=log, **streams
            )
        if terminal:
            os.close(slave)

    def close(self) -> None:
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


class Battery:
    """Counts of tries, recoveries and equal products, by kind of kill and step.

    Attributes:
        whole: finished jobs of each step in a complete run.
        lasts: mean seconds of the jobs of each step.
    """

    def __init__(self, seed: int, whole: Counter[str], lasts: dict[str, float]) -> None:
        self.random, self.whole, self.lasts = random.Random(seed), whole, lasts
        self.counts: dict[Cell, Counter[str]] = {(kind, step): Counter() for step in STEPS for kind in KINDS}

    def wanted(self, steps: Iterable[str]) -> list[Cell]:
        """The cells of these steps that are among the least tried ones of all, in the order of the steps."""
        least, steps = min(count["tries"] for count in self.counts.values()), set(steps)
        return [cell for cell, count in self.counts.items() if count["tries"] == least and cell[1] in steps]

    def start(self) -> str:
        """Where a pass should begin: as late as it can and still reach a wanted cell."""
        return next(start for start in STARTS if self.wanted(steps_from(start)))

    def next_kind(self, folder: Path) -> str | None:
        """A way of killing the next run that is wanted in the first possible step; None if nothing is wanted."""
        done = finished(folder)
        wanted = self.wanted(step for step in STEPS if done[step] < self.whole[step])
        kinds = [kind for kind, step in wanted if step == wanted[0][1]]
        return self.random.choice([kind for kind in kinds if kind != "job"] or kinds or [None])

    def attack(self, run: Run, kind: str, until: float) -> list[Cell]:
        """Kill the run in this way while a job runs for which that is wanted, and before that jobs alone.

        Returns:
            Each kill; empty if the command ended before.
        """
        attacks: list[Cell] = []
        seen: set[int] = set()
        while run.process.poll() is None and kind not in {now for now, _ in attacks if now != "job"}:
            wanted = self.wanted(STEPS) if time.monotonic() < until else []
            jobs = [(pid, step) for pid, step in run.jobs().items() if pid not in seen]
            cells = [
                (pid, (now, step)) for now in ("job", kind) for pid, step in jobs if (now, step) in wanted
            ]
            if not cells:
                time.sleep(0.1)
                continue
            pid, cell = cells[0]
            seen.add(pid)
            time.sleep(self.random.choice([0.0, 0.3, self.random.uniform(0, self.lasts[cell[1]])]))
            if run.process.poll() is None and psutil.pid_exists(pid):
                run.kill(cell[0], pid)
                attacks.append(cell)
                self.counts[cell]["tries"] += 1
        return attacks

    def one_pass(self, folder: Path, environment: dict[str, str], until: float) -> list[Cell]:
        """Attack a run until it is complete; returns the kills."""
        attacks: list[Cell] = []
        left: list[psutil.Process] = []
        while True:
            kind = self.next_kind(folder) if time.monotonic() < until else None
            run = Run(folder, environment, terminal=kind == "ctrl-c")
            if left and kind:
                time.sleep(self.random.uniform(0, 4))
                for process in left:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            new = self.attack(run, kind, until) if kind else []
            code = run.process.wait()
            run.close()
            left = run.left
            attacks += new
            for cell in new:
                print(f"{folder.name}: {cell[0]} in {cell[1]}; ended with {code}", flush=True)
            failed = code and not any(killed != "job" for killed, _ in new)
            if failed:
                tail = (folder / "output.log").read_text(encoding="utf-8", errors="replace")[-3000:]
                print(f"{folder}: the command failed after {attacks[-1:]}:\n{tail}", flush=True)
            if failed or code == 0:
                for done in attacks[:-1] if failed else attacks:
                    self.counts[done]["recovered"] += 1
                return attacks

    def table(self) -> str:
        """Kind of kill x step: tries / recovered / equal, as Markdown."""
        lines = [
            "Each cell: tries / recovered / products equal.",
            "",
            f"| kill | {' | '.join(STEPS)} | all |",
        ]
        lines.append("| --- " * (len(STEPS) + 2) + "|")
        for kind in KINDS:
            own = [self.counts[kind, step] for step in STEPS]
            cells = [_cell(count) for count in (*own, sum(own, Counter()))]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def _cell(count: Counter[str]) -> str:
    return " / ".join(str(count[name]) for name in ("tries", "recovered", "equal")) if count["tries"] else ""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--minutes", type=float, default=14)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path("results/chaos.md"))
    args = options.parse_args()
    # a command in the background would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    end = started + 60 * args.minutes
    home = Path(tempfile.mkdtemp(prefix="chaos-"))
    quiet = make_copy(home / "undisturbed")
    quiet.run(*COMMAND)
    took = time.monotonic() - started
    expected, number, wrong = products(quiet.folder), 0, False
    battery = Battery(args.seed, finished(quiet.folder), seconds(quiet.folder))
    print(f"an undisturbed run: {took:.0f} s, {len(expected)} products", flush=True)
    while number == 0 or time.monotonic() + 2 * took < end:
        number += 1
        toy = begin(home / f"pass{number}", quiet, battery.start())
        # the last part of the time is left for the run to end, and a pass must not take all of it
        now = time.monotonic()
        attacks = battery.one_pass(
            toy.folder, toy.environment(), min(end - 1.2 * took, now + 0.6 * (end - now))
        )
        found = products(toy.folder)
        different = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        for attack in attacks:
            battery.counts[attack]["equal"] += not different
        wrong = wrong or bool(different)
        print(
            f"pass {number}: {len(attacks)} kills, {len(different)} products differ {different[:5]}",
            flush=True,
        )
    write_text(args.out, battery.table())
    print(f"{battery.table()}\nwrote {args.out}")
    if wrong:
        sys.exit(f"some runs did not go on, or their products differ; they are in {home}")
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
