"""Faults of a machine and of its user: what a run says of each, and whether it goes on when the fault is undone.

`make chaos` runs them after its kills. Each fault damages a copy of a run of the preset tiny, finished or half done,
and states the sentence that the run must say of it. Then the damage is undone as the sentence tells, if anything has to
be undone, and the same command must end well with the products of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from conftest import Toy
from disturbed import Run, begin, command, products
from PIL import Image

from i2r.config.load import load
from i2r.pipeline.plan import make_plan
from i2r.pipeline.store import MANIFEST, manifest, problem

INSIDE = "I2R_CHAOS_MOUNTS"  # set in a process that has a mount namespace of its own
# a backbone for photographs; the stage `data` does not read it
NOT_READ = {"name": "resnet50", "weights": "resnet50.safetensors"}
CLOSED = "http://127.0.0.1:9"  # nobody listens there


class Skipped(Exception):
    """A fault that cannot be made on this machine; the message says why."""


@dataclass
class Trial:
    """One fault, and what was seen of it.

    Attributes:
        expected: product -> content, of the undisturbed run.
        said: the sentence about the fault, when it has been found.
        codes: exit status of each command.
        half: what was half-made after a command.
        wrong: what was not as it must be.
        goes_on: whether the same command ended well when the fault was undone.
        different: products that differ from the undisturbed run's.
        mounted: whether results/ is a mount point.
    """

    toy: Toy
    expected: dict[str, Any]
    command: Sequence[str]
    said: str = ""
    codes: list[int] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    goes_on: bool = False
    different: list[str] = field(default_factory=list)
    mounted: bool = False

    @property
    def right(self) -> bool:
        return self.goes_on and not (self.wrong or self.half or self.different)

    def row(self, name: str) -> str:
        said = (
            re.sub(r"\b[0-9a-f]{12}\b", "KEY", self.said).replace("|", "\\|")
            or "nothing: it goes on by itself"
        )
        said = said if len(said) <= 200 else said[:197] + "..."
        marks = ["yes" if mark else "**no**" for mark in (not self.half, self.goes_on, not self.different)]
        said += " **(not as it must be)**" if self.wrong else ""
        return f"| {name} | {said} | {', '.join(map(str, self.codes))} | {' | '.join(marks)} |"

    @property
    def results(self) -> Path:
        return self.toy.folder / "results"

    def run(self, says: str = "", code: int = 0, **variables: str) -> str:
        """The command once more: its output, which must have a line that matches `says`, and its exit status."""
        done = subprocess.run(
            self.command,
            check=False,
            cwd=self.toy.folder,
            env=self.toy.environment() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=900,
        )
        self.judge(done.stdout, done.returncode, says, code)
        return done.stdout

    def judge(self, output: str, code: int, says: str, wanted: int) -> None:
        """Compare an output and an exit status with what they must be. What ends a run must be its last line."""
        lines = [line for line in output.replace(str(self.toy.folder), "CLONE").splitlines() if line.strip()]
        found = [line for line in (lines[-1:] if wanted == 1 else lines) if re.search(says, line)]
        self.codes.append(code)
        if code != wanted:
            self.wrong.append(f"ended with {code}, not {wanted}: {lines[-6:]}")
        if not found:
            self.wrong.append(f"no line says {says!r}; the last ones: {lines[-6:]}")
        elif says:
            self.said = found[-1]
        if "Traceback" in output:
            self.wrong.append(f"a traceback: {lines[-12:]}")
        self.half += half_made(self.results)

    def until(self, step: str, terminal: bool = False) -> Run:
        """A run in which jobs of this step are at work: each has written to its log."""
        run = Run(self.toy.folder, self.toy.environment(), terminal, self.command)
        logs = self.results / "logs" / step

        def at_work() -> bool:
            begun = sum(log.stat().st_size > 0 for log in logs.glob("*.log"))
            return begun >= list(run.jobs().values()).count(step) >= 1 or run.process.poll() is not None

        wait_for(at_work)
        assert run.process.poll() is None, f"the run ended before {step}: {run.output()[-2000:]}"
        return run

    def product(self, step: str, name: str) -> Path:
        """A product of the first finished job of a step."""
        return sorted((self.results / "store" / step).glob(f"*/{name}"))[0]


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {seconds} s in vain"
        time.sleep(0.1)


def half_made(results: Path) -> list[str]:
    """Folders of the store with products and no right manifest, and temporary files in the store and in the view."""
    found = []
    for folder in (results / "store").glob("*/*"):
        if any(folder.glob("[!.]*")):
            values = manifest(folder)
            found.append(
                problem(folder, values["spec"]["key"], content=True) if values else f"{folder}: half"
            )
    hidden = [*results.glob("store/**/.*"), *results.glob("tiny/**/.*")]
    return [text for text in found if text] + [
        str(path) for path in hidden if path.name != ".snakemake_timestamp"
    ]


# --- disks, in a mount namespace of their own ----------------------------------------------------------------


def with_own_mounts() -> None:
    """Begin this program again in a mount namespace of its own, which needs no rights, if one can be made here."""
    tool, own = shutil.which("unshare"), ["--map-root-user", "--mount"]
    if INSIDE not in os.environ and tool:
        tried = [tool, *own, "mount", "-t", "tmpfs", "none", "/mnt"]
        if subprocess.run(tried, check=False, capture_output=True).returncode == 0:
            os.execve(tool, [tool, *own, sys.executable, *sys.argv], os.environ | {INSIDE: "yes"})


def mount(trial: Trial, *words: object) -> None:
    """Mount something at results/ of a trial, or mount it again in another way."""
    if INSIDE not in os.environ:
        raise Skipped("no mount namespace can be made here")
    subprocess.run(["mount", *map(str, words), trial.results], check=True)
    trial.mounted = True


def full_disk(trial: Trial) -> None:
    """results/ on a disk that has room for some trainings only; then the disk gets larger."""
    kept = trial.toy.folder / "kept"
    trial.results.rename(kept)
    trial.results.mkdir()
    used = sum(4096 + 4096 * (path.stat().st_size // 4096 + 1) for path in kept.rglob("*"))
    mount(trial, "-t", "tmpfs", "-o", f"size={used + 2**20}", "none")
    shutil.copytree(kept, trial.results, dirs_exist_ok=True)
    trial.run("(No space left on device|disk is full) .*make room there", 1)
    mount(trial, "-o", "remount,size=1g")


def read_only_results(trial: Trial) -> None:
    mount(trial, "--bind", trial.results)
    mount(trial, "-o", "remount,ro,bind")
    trial.run("results/.*: Read-only file system", 1)
    mount(trial, "-o", "remount,rw,bind")


# --- data and params -----------------------------------------------------------------------------------------


def photographs(trial: Trial) -> Path:
    """A folder of images in VOC's layout, with which the stage `data` was run once; that is what is compared."""
    (generated,) = (trial.results / "store/data").glob("*/VOC")
    shutil.copytree(generated, trial.toy.folder / "voc")
    (trial.toy.folder / NOT_READ["weights"]).touch()
    shutil.rmtree(trial.results)
    trial.toy.change(data={"source": "voc", "root": "voc"}, backbone=NOT_READ)
    trial.command = command("data")
    trial.run()
    trial.expected = products(trial.toy.folder)
    return trial.toy.folder / "voc"


def truncated_image(trial: Trial) -> None:
    """After the data have been read once: when they have changed, they are read again."""
    path = photographs(trial) / "JPEGImages/train_000007.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    trial.run(r"JPEGImages/train_000007.jpg: (damaged|cannot be read).*leave_out", 1)
    path.write_bytes(content)


def wrong_mask_size(trial: Trial) -> None:
    """Before the data are read for the first time."""
    path = photographs(trial) / "SegmentationClassAug/train_000007.png"
    shutil.rmtree(trial.results)
    content = path.read_bytes()
    Image.open(path).resize((9, 9), Image.Resampling.NEAREST).save(path)
    trial.run(r"SegmentationClassAug/train_000007.png: the mask has 9 x 9 pixels, its image.*leave_out", 1)
    path.write_bytes(content)


@contextlib.contextmanager
def changed_params(trial: Trial, **sections: Any) -> Iterator[None]:
    path = trial.toy.folder / "params.yaml"
    before = path.read_bytes()
    trial.toy.change(**sections)
    yield
    path.write_bytes(before)


def nan_loss(trial: Trial) -> None:
    with changed_params(trial, train={"lr": 1e12}):
        trial.run(r"the loss is (nan|inf) at step \d+.*train\.lr", 1)


def params_changed_during_a_run(trial: Trial) -> None:
    run = trial.until("train")
    run.kill("group", 0)
    run.process.wait()
    with changed_params(trial, train={"steps": 7}):
        trial.run()


# --- products and locks --------------------------------------------------------------------------------------


def deleted_product(trial: Trial) -> None:
    trial.product("evaluate", "scores.json").unlink()
    trial.run("evaluate/.*/scores.json: missing")


def truncated_product(trial: Trial) -> None:
    path = trial.product("train", "*.safetensors")
    os.truncate(path, path.stat().st_size // 2)
    trial.run(r"train/.*safetensors: damaged, its size has changed")


def emptied_manifest(trial: Trial) -> None:
    os.truncate(trial.product("episodes", MANIFEST), 0)
    trial.run(r"episodes/.*/manifest.json: cannot be read")


def wrong_clock(trial: Trial) -> None:
    """Results of a machine whose clock was a day ahead."""
    ahead = time.time() + 86400
    for path in (trial.results / "store").rglob("*"):
        os.utime(path, (ahead, ahead))
    trial.run()


def state_removed(trial: Trial) -> None:
    run = trial.until("baselines")
    shutil.rmtree(trial.results / "state")
    code = run.process.wait()
    trial.judge(run.output(), code, "", 0)


def stale_locks(trial: Trial) -> None:
    """All that a run leaves whose machine lost its power: Snakemake's locks, ours, and the names of their owners."""
    locks, state = trial.toy.folder / ".snakemake/locks", trial.results / "state"
    locks.mkdir(parents=True)
    (state / "locks").mkdir(parents=True)
    for name in ("0.input.lock", "0.output.lock"):
        (locks / name).write_text(f"{trial.results}/store\n")
    dead = subprocess.Popen(["true"])
    dead.wait()
    (key,) = {path.name for path in (state.parent / "specs/report").glob("*.json")} or {"none.json"}
    for name in ("stage", "snakemake", f"locks/{Path(key).stem}"):
        (state / f"{name}.lock").touch()
        (state / f"{name}.owner").write_text(f"process {dead.pid} on {platform.node()}\n")
    trial.run("an earlier Snakemake was killed; removing its lock")


# --- runs ----------------------------------------------------------------------------------------------------


def two_runs(trial: Trial) -> None:
    first = trial.until("baselines")
    trial.run(r"is being worked on by process \d+ on", 1)
    trial.codes.append(first.process.wait())


def moved_clone(trial: Trial) -> None:
    run = trial.until("baselines")
    run.kill("group", 0)
    run.process.wait()
    trial.toy = Toy(trial.toy.folder.rename(trial.toy.folder.with_name("another place")))
    trial.run()


def twice_ctrl_c(trial: Trial) -> None:
    run = trial.until("baselines", terminal=True)
    for _ in range(2):
        run.kill("ctrl-c", 0)
        time.sleep(0.5)
    code = run.process.wait()
    trial.judge(run.output(), code, "i2r: interrupted", 130)


def closed_terminal(trial: Trial) -> None:
    run = trial.until("baselines", terminal=True)
    run.close()  # the terminal's programs get SIGHUP
    run.process.wait()
    trial.run()


# --- MLflow --------------------------------------------------------------------------------------------------


def no_mlflow_server(trial: Trial) -> None:
    trial.run(f"MLflow failed at {CLOSED} .*no answer.*`i2r track` can import", MLFLOW_TRACKING_URI=CLOSED)
    said = trial.toy.run("i2r", "track")
    assert re.search(r"[1-9]\d* ", said), said


def broken_mlflow_database(trial: Trial) -> None:
    (trial.results / "mlflow.db").write_bytes(b"no database " * 100)
    trial.run("mlflow.db is damaged or no database: it is now mlflow-old1.db")


class Fault(NamedTuple):
    """A fault.

    Attributes:
        start: the first step without results when it begins; None: all are there.
        stage: what the command makes, and what is compared.
    """

    name: str
    start: str | None
    do: Callable[[Trial], None]
    stage: str = "all"


FAULTS = (
    Fault("full disk", "train", full_disk, "train"),
    Fault("read-only results", "report", read_only_results),
    Fault("truncated image", "lists", truncated_image),
    Fault("wrong mask size", "lists", wrong_mask_size),
    Fault("NaN loss", "train", nan_loss, "train"),
    Fault("params changed during a run, and back", "train", params_changed_during_a_run, "train"),
    Fault("deleted product", None, deleted_product),
    Fault("truncated product", None, truncated_product),
    Fault("emptied manifest", None, emptied_manifest),
    Fault("wrong clock", "report", wrong_clock),
    Fault("saved states removed during a run", "baselines", state_removed),
    Fault("stale locks", "report", stale_locks),
    Fault("two runs in one clone", "baselines", two_runs),
    Fault("clone moved during a pause", "baselines", moved_clone),
    Fault("Ctrl-C twice", "baselines", twice_ctrl_c),
    Fault("closed terminal", "baselines", closed_terminal),
    Fault("no MLflow server", "report", no_mlflow_server),
    Fault("broken MLflow database", "report", broken_mlflow_database),
)


def attempt(fault: Fault, folder: Path, whole: Toy, expected: dict[str, Any]) -> Trial:
    """Let a fault happen in a copy of a whole run, undo it, and type the same command again.

    Raises:
        Skipped: the fault cannot be made on this machine.
    """
    toy = begin(folder, whole, fault.start)
    keys = {spec.key for spec in make_plan(load(folder / "params.yaml")).of(fault.stage)}
    expected = {name: content for name, content in expected.items() if Path(name).parts[1] in keys}
    trial = Trial(toy, expected, command(fault.stage))
    try:
        fault.do(trial)
        before = len(trial.wrong)
        trial.run()
        trial.goes_on = len(trial.wrong) == before
        found = products(trial.toy.folder)
        trial.different = sorted(name for name in trial.expected if found.get(name) != trial.expected[name])
    except (AssertionError, IndexError, OSError, subprocess.SubprocessError) as error:
        trial.wrong.append(f"it did not come to its end: {error}")
    finally:
        if trial.mounted:
            subprocess.run(["umount", "--lazy", trial.results], check=True)
    return trial


def run_faults(home: Path, whole: Toy, expected: dict[str, Any], words: str = "") -> tuple[str, bool]:
    """A table of all faults whose names match `words`, as Markdown, and whether every row is right."""
    lines = ["| fault | what is said | exit status | nothing half-made | goes on | products equal |"]
    lines.append("| --- " * 6 + "|")
    right = True
    for number, fault in enumerate(FAULTS):
        if not re.search(words, fault.name):
            continue
        began, spent = time.monotonic(), cpu_seconds()
        try:
            trial = attempt(fault, home / f"fault{number}", whole, expected)
        except Skipped as why:
            lines.append(f"| {fault.name} | skipped: {why} | | | | |")
            continue
        lines.append(trial.row(fault.name))
        right = right and trial.right
        took, spent = time.monotonic() - began, cpu_seconds() - spent
        print(f"{lines[-1]} {took:.0f} s, {spent:.0f} s of CPU", flush=True)
        for text in (*trial.wrong, *trial.half, *trial.different[:5]):
            print(f"  {fault.name}: {text}", flush=True)
    return "\n".join(lines) + "\n", right


def cpu_seconds() -> float:
    """Processor time of all children that have ended."""
    return sum(os.times()[2:4])
