"""Kill a run of the preset tiny in many ways, type the same command again each time, and compare the products.

`make chaos` runs it. Each pass is one experiment from its first job to its report: soon after a job has begun, or some
seconds later, the run is killed in the next way, and `i2r stage all` is called again. A pass ends when that command
has ended by itself; the products must then equal those of a run that nobody disturbed.
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
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from conftest import make_copy

from i2r.files import sha256, write_text
from i2r.pipeline.steps import STEPS

COMMAND = ["i2r", "stage", "all", "--cores", "2"]
KINDS = ("group", "parent", "snakemake", "job", "ctrl-c", "sigterm")
LONGEST = 8.0  # seconds between the beginning of a job and a kill


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


class Run:
    """One call of the command, in a session of its own; in a pseudo-terminal if `terminal`."""

    def __init__(self, folder: Path, environment: dict[str, str], terminal: bool) -> None:
        self.folder, self.master = folder, None
        with (folder / "output.log").open("ab") as log:
            if terminal:
                self.master, slave = pty.openpty()
                # `script`-like: the output goes to the log, the keyboard is the terminal
                streams = {"stdin": slave, "stdout": log, "stderr": log, "start_new_session": True}
                streams["preexec_fn"] = _take_terminal
            else:
                streams = {
                    "stdin": subprocess.DEVNULL,
                    "stdout": log,
                    "stderr": log,
                    "start_new_session": True,
                }
            self.process = subprocess.Popen(COMMAND, cwd=folder, env=environment, **streams)
        if terminal:
            os.close(slave)

    def close(self) -> None:
        if self.master is not None:
            os.close(self.master)

    def jobs(self) -> dict[int, str]:
        """Process -> step, of the jobs that run in the folder."""
        found = {}
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            with contextlib.suppress(psutil.Error):
                if words[1:4] == ["-m", "i2r", "run"] and process.cwd() == str(self.folder):
                    found[process.pid] = words[4]
        return found

    def kill(self, kind: str, job: int) -> None:
        pid = self.process.pid
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if kind == "group":
                os.killpg(pid, signal.SIGKILL)
            elif kind == "parent":
                os.kill(pid, signal.SIGKILL)
            elif kind == "snakemake":
                for child in psutil.Process(pid).children():
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
    """Counts of tries, recoveries and equal products, by kind of kill and step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def next_kind(self, kinds: Sequence[str]) -> str:
        tried = Counter({kind: 0 for kind in kinds})
        for (kind, _), count in self.counts.items():
            tried[kind] += count["tries"]
        return min(kinds, key=lambda kind: (tried[kind], self.random.random()))

    def attack(self, run: Run, kind: str, seen: set[int], until: float) -> list[tuple[str, str]]:
        """Kill the run in this way, and before that a job of it if that has been done less often.

        Returns:
            (kind, step) of each kill; empty if the command ended before.
        """
        attacks: list[tuple[str, str]] = []
        while run.process.poll() is None:
            fresh = {pid: step for pid, step in run.jobs().items() if pid not in seen}
            if not fresh or time.monotonic() > until:
                time.sleep(0.05)
                continue
            now = self.next_kind(("job", kind)) if not attacks else kind
            pid = min(fresh, key=lambda p: self.counts[now, fresh[p]]["tries"])
            time.sleep(self.random.choice([0.0, 0.3, self.random.uniform(0, LONGEST)]))
            seen.update(fresh)
            if run.process.poll() is None and psutil.pid_exists(pid):
                run.kill(now, pid)
                attacks.append((now, fresh[pid]))
                self.counts[attacks[-1]]["tries"] += 1
                if now != "job":
                    break
        return attacks

    def one_pass(self, folder: Path, environment: dict[str, str], until: float) -> list[tuple[str, str]]:
        """Attack a run until it is complete; returns the attacks."""
        attacks: list[tuple[str, str]] = []
        seen: set[int] = set()
        while True:
            kind = self.next_kind([kind for kind in KINDS if kind != "job"])
            run = Run(folder, environment, terminal=kind == "ctrl-c")
            new = self.attack(run, kind, seen, until)
            code = run.process.wait()
            run.close()
            attacks += new
            for killed, step in new:
                print(f"{folder.name}: {killed} in {step}; ended with {code}", flush=True)
            if code and not any(killed != "job" for killed, _ in new):
                tail = (folder / "output.log").read_text(encoding="utf-8", errors="replace")[-3000:]
                print(f"{folder}: the command failed after {attacks[-1:]}:\n{tail}", flush=True)
                for done in attacks[:-1]:
                    self.counts[done]["recovered"] += 1
                return attacks
            if code == 0:
                for done in attacks:
                    self.counts[done]["recovered"] += 1
                return attacks

    def table(self) -> str:
        """Kind of kill x step: tries / recovered / equal, as Markdown."""
        steps = [step for step in STEPS if any(found == step for _, found in self.counts)]
        lines = [
            "Each cell: tries / recovered / products equal.",
            "",
            f"| kill | {' | '.join(steps)} | all |",
        ]
        lines.append("| --- " * (len(steps) + 2) + "|")
        for kind in KINDS:
            own = [self.counts.get((kind, step), Counter()) for step in steps]
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
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a command in the background would ignore Ctrl-C
    end, battery = time.monotonic() + 60 * args.minutes, Battery(args.seed)
    home = Path(tempfile.mkdtemp(prefix="chaos-"))
    quiet = make_copy(home / "undisturbed")
    started = time.monotonic()
    quiet.run(*COMMAND)
    took = time.monotonic() - started
    expected, number, wrong = products(quiet.folder), 0, False
    print(f"an undisturbed run: {took:.0f} s, {len(expected)} products", flush=True)
    while number == 0 or time.monotonic() + 2 * took < end:
        number += 1
        toy = make_copy(home / f"pass{number}")
        # the last part of the time is left for the run to end
        attacks = battery.one_pass(toy.folder, toy.environment(), end - 1.2 * took)
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
