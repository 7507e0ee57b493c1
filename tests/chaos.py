"""Kill a run of the preset tiny in many ways, type the same command again each time, and compare the products.

`make chaos` runs it, and then the faults of faults.py. Passes begin with no results and with those of all steps before
`evaluate`, in turn: soon after a job has begun, or while it runs, the run is killed in the way that has been tried
least in this step, and `i2r stage all` is called again. A Snakemake that lives on without its killed parent is killed
as well when the next command waits for it; at the end of a pass it may go on. A pass ends when the command has ended by
itself; the products must then equal those of a run that nobody disturbed. With --every, one run of any preset is killed
with -9 in equal times instead.
"""

from __future__ import annotations

import argparse
import contextlib
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

import psutil
from conftest import Toy, make_copy
from disturbed import COMMAND, Run, begin, finished, products, seconds, steps_from
from faults import cpu_seconds, run_faults, with_own_mounts

from i2r.files import write_text
from i2r.pipeline.steps import STEPS

KINDS = ("group", "parent", "snakemake", "job", "ctrl-c", "sigterm")
STARTS = ("data", "evaluate")  # passes begin with the results of all steps before one of these, in turn


Cell = tuple[str, str]  # kind of kill, step


class Battery:
    """Counts of tries, recoveries and equal products, by kind of kill and step.

    Attributes:
        whole: finished jobs of each step in a complete run.
        steps: those that have any.
        lasts: mean seconds of the jobs of each step.
    """

    def __init__(self, seed: int, whole: Counter[str], lasts: dict[str, float]) -> None:
        self.random, self.whole, self.lasts = random.Random(seed), whole, lasts
        self.steps = [step for step in STEPS if whole[step]]
        self.counts: dict[Cell, Counter[str]] = {
            (kind, step): Counter() for step in self.steps for kind in KINDS
        }

    def wanted(self, steps: Iterable[str]) -> list[Cell]:
        """The cells of these steps that are among the least tried ones of all, in the order of the steps."""
        least, steps = min(count["tries"] for count in self.counts.values()), set(steps)
        return [cell for cell, count in self.counts.items() if count["tries"] == least and cell[1] in steps]

    def start(self, number: int) -> str:
        """Where pass 1, 2, ... begins; at the first step if no cell is wanted after a later one."""
        start = STARTS[(number - 1) % len(STARTS)]
        return start if self.wanted(steps_from(start)) else STARTS[0]

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

    def with_minus_9(self) -> int:
        """Number of kills with -9."""
        soft = ("ctrl-c", "sigterm")
        return sum(count["tries"] for (kind, _), count in self.counts.items() if kind not in soft)

    def table(self) -> str:
        """Kind of kill x step: tries / recovered / equal, as Markdown."""
        lines = [
            "Each cell: tries / recovered / products equal.",
            "",
            f"| kill | {' | '.join(self.steps)} | all |",
        ]
        lines.append("| --- " * (len(self.steps) + 2) + "|")
        for kind in KINDS:
            own = [self.counts[kind, step] for step in self.steps]
            cells = [_cell(count) for count in (*own, sum(own, Counter()))]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def _cell(count: Counter[str]) -> str:
    return " / ".join(str(count[name]) for name in ("tries", "recovered", "equal")) if count["tries"] else ""


def undisturbed(folder: Path, preset: str) -> Toy:
    """A whole run of a preset."""
    toy = of_preset(folder, preset)
    toy.run(*COMMAND)
    return toy


def of_preset(folder: Path, preset: str) -> Toy:
    toy = make_copy(folder)
    (folder / "params.yaml").write_text(f"extends: workflow/presets/{preset}.yaml\nexperiment: {preset}\n")
    return toy


def kill_in_many_ways(
    home: Path, quiet: Toy, expected: dict[str, Any], args: argparse.Namespace
) -> tuple[str, bool]:
    """A table of kills in passes, and whether all products were equal."""
    lasts = seconds(quiet.folder)
    battery, number, wrong = Battery(args.seed, finished(quiet.folder), lasts), 0, False
    took = sum(lasts[step] * count for step, count in battery.whole.items()) / 2  # two jobs at a time
    end = time.monotonic() + 60 * args.minutes
    while battery.with_minus_9() < args.kills and (number == 0 or time.monotonic() + 2 * took < end):
        number += 1
        toy = begin(home / f"pass{number}", quiet, battery.start(number))
        # the last part of the time is left for the run to end, and a pass must not take all of it
        now = time.monotonic()
        attacks = battery.one_pass(
            toy.folder, toy.environment(), min(end - 1.2 * took, now + 0.6 * (end - now))
        )
        different = differences(expected, toy)
        for attack in attacks:
            battery.counts[attack]["equal"] += not different
        wrong = wrong or bool(different)
        print(
            f"pass {number}: {len(attacks)} kills, {len(different)} products differ {different[:5]}",
            flush=True,
        )
    return battery.table(), not wrong


def kill_every(home: Path, expected: dict[str, Any], args: argparse.Namespace) -> tuple[str, bool]:
    """Kill a run and all its jobs with -9 in equal times, until it ends by itself or `args.kills` times at most."""
    toy, kills, code = of_preset(home / "killed", args.preset), 0, None
    while code is None:
        run = Run(toy.folder, toy.environment())
        try:
            code = run.process.wait(args.every if kills < args.kills else None)
        except subprocess.TimeoutExpired:
            run.kill("group", 0)
            run.process.wait()
            kills += 1
            print(f"kill {kills}: {finished(toy.folder).total()} jobs are done", flush=True)
    different = differences(expected, toy)
    text = f"{args.preset}, killed with -9 every {args.every:.0f} s: {kills} kills, ended with {code}, "
    return text + f"{len(different)} products differ {different[:5]}\n", code == 0 and not different


def differences(expected: dict[str, Any], toy: Toy) -> list[str]:
    found = products(toy.folder)
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


def options() -> argparse.Namespace:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    asked.add_argument(
        "--kills", type=int, default=60, help="at most about this many with -9; 0: faults alone"
    )
    asked.add_argument("--minutes", type=float, default=14, help="of kills, at most about")
    asked.add_argument("--preset", default="tiny", help="another one needs --every, and no faults are tried")
    asked.add_argument("--every", type=float, help="kill once in so many seconds, until the run ends")
    asked.add_argument("--faults", default="", metavar="WORDS", help="only faults that match; '^$' for none")
    asked.add_argument("--undisturbed", type=Path, metavar="FOLDER", help="a clone with an undisturbed run")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--out", type=Path, default=Path("results/chaos.md"))
    args = asked.parse_args()
    if args.preset != "tiny" and args.every is None:
        asked.error("--preset needs --every")
    return args


def main() -> None:
    args = options()
    with_own_mounts()
    # a command in the background would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started, home = time.monotonic(), Path(tempfile.mkdtemp(prefix="chaos-"))
    quiet = Toy(args.undisturbed) if args.undisturbed else undisturbed(home / "undisturbed", args.preset)
    expected = products(quiet.folder)
    if not expected:
        sys.exit(f"{quiet.folder}: no results of a finished run; name the clone that has them")
    print(f"an undisturbed run: {time.monotonic() - started:.0f} s, {len(expected)} products", flush=True)
    parts = []
    if args.every:
        parts.append(kill_every(home, expected, args))
    else:
        if args.kills:
            parts.append(kill_in_many_ways(home, quiet, expected, args))
        parts.append(run_faults(home, quiet, expected, args.faults))
    took = f"It took {(time.monotonic() - started) / 60:.0f} minutes, {cpu_seconds() / 60:.0f} of CPU.\n"
    text = "\n".join([*(table for table, _ in parts), took])
    write_text(args.out, text)
    print(f"{text}\nwrote {args.out}")
    if not all(right for _, right in parts):
        sys.exit(f"something is not as it must be; the runs are in {home}")
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
