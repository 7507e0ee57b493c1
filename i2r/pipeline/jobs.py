"""Running one job: from its spec file to its products and their manifest.

A job does not read params.yaml and writes to a temporary folder. Its manifest is written last: it shows that the
result is complete, and records what it was made from.
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from i2r.config.experiment import Runtime
from i2r.errors import InputError, sentence
from i2r.files import flush, naming_the_disk, read_json, sha256, write_json, write_text
from i2r.pipeline import gpus
from i2r.pipeline.digests import digest
from i2r.pipeline.fetched import changed
from i2r.pipeline.spec import JobError, Spec, read_spec, spec_path
from i2r.pipeline.steps import STEPS
from i2r.pipeline.store import MANIFEST, manifest, problem, products_digest, size_of
from i2r.pipeline.usage import SPENT, measured
from i2r.progress import duration

INPUTS = "inputs.json"  # in a state folder: what its saved state was made from


@dataclass(frozen=True)
class Job:
    """The argument of a step's function.

    Attributes:
        label: a readable name, for messages.
        args: those of fold, shot, seed and eval_seed that the step has.
        params: the sections that the step reads.
        inputs: role -> folder of a finished job.
        out: folder for the products; temporary, moved into place after the function has returned.
        state: folder for saved states, from which a killed job continues; removed when the job is done.
        threads: number of CPU threads.
        data_root: folder of the data set, with JPEGImages/ and SegmentationClassAug/.
        options: of a report, those of the `snakemake` that planned it.
    """

    step: str
    key: str
    label: str
    args: dict[str, Any]
    params: dict[str, Any]
    inputs: dict[str, Path]
    out: Path
    state: Path
    runtime: Runtime
    threads: int = 1
    data_root: Path | None = None
    options: list[str] = field(default_factory=list)


@contextmanager
def locked(path: Path, what: str, wait: bool = True) -> Iterator[None]:
    """Hold a lock file. The operating system releases it when the process ends, even if it is killed.

    Raises:
        JobError: the lock is taken and `wait` is False (the message names the holder), or the lock's folder cannot be
            written to.
    """
    lock, owner = FileLock(path), path.with_suffix(".owner")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        holder = owner.read_text(encoding="utf-8").strip() if owner.is_file() else "another process"
        if not wait:
            raise JobError(
                f"{path}: {what} is being worked on by {holder}; wait until it has ended, or end it"
            ) from None
        print(f"{what} is being worked on by {holder}; waiting", file=sys.stderr, flush=True)
        lock.acquire()
    except OSError as error:
        raise JobError(f"{sentence(error)}; {what} needs a lock there") from None
    try:
        write_text(owner, f"process {os.getpid()} on {platform.node()}\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def run_job(
    path: str | Path, step: str | None = None, again: bool = False, attempt: int = 1
) -> dict[str, Any]:
    """Run the job of a spec file (results/specs/<step>/<key>.json) and return its manifest.

    Args:
        path: of the spec, where `i2r plan` wrote it; results/ is found from it.
        again: run it even if its result is complete.
        attempt: 2 and more if Snakemake repeats the job; if bad input ended the attempt before, nothing is repeated.

    Raises:
        JobError: the spec or an input is not usable, or a product was not made.
    """
    spec = read_spec(Path(path), step)
    results = _results_of(spec, Path(path).resolve())
    state, folder = results / "state" / spec.key, results / spec.folder
    lock = results / "state" / "locks" / f"{spec.key}.lock"
    with locked(lock, spec.title), _bad_input_once(state / "bad-input.txt", attempt):
        inputs = {role: results / given.folder for role, given in spec.inputs.items()}
        made_from = _digests(spec, inputs)
        complete = (
            not again and not STEPS[spec.step].network and problem(folder, spec.key, content=True) is None
        )
        complete = complete and changed(spec, manifest(folder), results) is None
        if complete and manifest(folder)["inputs"] == made_from:
            print(f"{spec.title}: already made", file=sys.stderr)
        else:
            print(f"{spec.title}: started", file=sys.stderr, flush=True)
            _keep_state_of(made_from, state)
            seconds = _make(spec, inputs, made_from, folder, state)["times"]["seconds"]
            print(f"{spec.title}: done in {duration(seconds)}", file=sys.stderr, flush=True)
        shutil.rmtree(state, ignore_errors=True)
    return manifest(folder)


@contextmanager
def _bad_input_once(path: Path, attempt: int) -> Iterator[None]:
    """Keep the sentence about bad input in a file, with which a repetition ends at once.

    Snakemake repeats every job that fails, because more memory or time can help after other failures.
    """
    if attempt > 1 and path.is_file():
        raise JobError(path.read_text(encoding="utf-8"))
    path.unlink(missing_ok=True)
    try:
        yield
    except InputError as error:
        write_text(path, str(error))
        raise


def _results_of(spec: Spec, path: Path) -> Path:
    """The folder results/ of a spec file."""
    results = Path(*path.parts[:-3])
    if path != spec.path(results):
        raise JobError(f"{path}: a spec must stay where it was written, at {spec.path(Path('results'))}")
    return results


def _digests(spec: Spec, inputs: dict[str, Path]) -> dict[str, str]:
    """Role -> digest of the input's products.

    Raises:
        JobError: an input is missing or damaged.
    """
    found = {}
    for role, folder in inputs.items():
        values = manifest(folder)
        if values is None:
            raise JobError(f"{spec.title}: the input {role} is missing ({folder}); run `snakemake`")
        given = spec.inputs[role]
        if wrong := problem(folder, given.key, content=True):
            path = spec_path(given.step, given.key, Path("results"))
            raise JobError(f"{wrong}; `i2r run {given.step} --spec {path} --again` makes it again")
        found[role] = products_digest(values)
    return found


def _keep_state_of(made_from: dict[str, str], state: Path) -> None:
    """Remove what was saved with other inputs, for an input can have been made again since."""
    begun = state / INPUTS
    if state.exists() and not (begun.is_file() and read_json(begun) == made_from):
        shutil.rmtree(state)
    write_json(begun, made_from)


def _make(
    spec: Spec, inputs: dict[str, Path], made_from: dict[str, str], folder: Path, state: Path
) -> dict[str, Any]:
    out = state / "out"
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    job = Job(
        step=spec.step,
        key=spec.key,
        label=spec.label,
        args=spec.args,
        params=_sections(spec),
        inputs=inputs,
        out=out,
        state=state,
        runtime=Runtime(**spec.runtime),
        threads=spec.threads,
        data_root=Path(spec.data_root) if spec.data_root else None,
        options=spec.options,
    )
    code = digest(spec.step, spec.params)
    started, clock = datetime.now(UTC), time.monotonic()
    step = STEPS[spec.step]
    device = job.runtime.device if step.torch else "cpu"
    processes, share = step.processes(job.runtime), job.runtime.jobs_per_gpu
    with (
        gpus.taken(device, share, processes),
        measured(state / SPENT, step.torch, share, all_gpus=processes > 1) as used,
        naming_the_disk(out),
    ):
        metrics = function_of(job)(job)
        cost = used()
    if not (state / INPUTS).is_file():  # an OSError, so that Snakemake repeats the job
        raise FileNotFoundError(
            errno.ENOENT, "removed while the job ran; run the same command again", str(state)
        )
    _expect_products(spec, out)
    made = sorted(path for path in out.iterdir() if not path.name.startswith("."))
    values = {
        "spec": spec.values(),
        "products": {path.name: sha256(path) for path in made},
        "sizes": {path.name: size_of(path) for path in made},
        "inputs": made_from,
        "code": code,
        "metrics": metrics or {},
        "environment": environment(),
        "times": {
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
        },
        "cost": cost,
        "bytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
    }
    _install(values, out, folder)
    return values


def _expect_products(spec: Spec, out: Path) -> None:
    """That a step has written what it is to write.

    Raises:
        JobError: a product is missing.
    """
    if "metrics.jsonl" in spec.products:
        (out / "metrics.jsonl").touch()  # not written by a step that had nothing to train
    for name in spec.products:
        if not (out / name).exists():
            raise JobError(f"{spec.title}: {STEPS[spec.step].function} did not write {name}")


def _sections(spec: Spec) -> dict[str, Any]:
    """The params of a spec, with the paths of weights files instead of their digests.

    Raises:
        JobError: a weights file is missing or has changed since the job was planned.
    """
    sections = {
        name: dict(value) if isinstance(value, dict) else value for name, value in spec.params.items()
    }
    for where, path in spec.files.items():
        section, name = where.split(".")
        if not Path(path).is_file() or sha256(path) != sections[section][name]:
            raise JobError(f"{path}: missing, or changed since {spec.label} was planned")
        sections[section][name] = path
    return sections


def function_of(job: Job) -> Any:
    """The step's function, after setting threads and seeds; torch is set up only if the step imports it."""
    threads = str(job.threads)
    os.environ.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads)
    module, name = STEPS[job.step].function.split(":")
    function = getattr(importlib.import_module(module), name)
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(job.threads)
        torch.manual_seed(0)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(job.threads)
    return function


def _install(values: dict[str, Any], out: Path, folder: Path) -> None:
    """Move the products into place.

    The old manifest is removed first and the new one written last, when all products have been flushed to disk, so
    that a result with a manifest is always complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in values["products"]:
        old = folder / name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
        with naming_the_disk(old.parent):
            shutil.move(out / name, old)  # not a rename, because store/ can be on another disk
            flush(old)
    write_json(folder / MANIFEST, values)


def environment() -> dict[str, Any]:
    """The environment of a job: versions, machine, device and git commit (None if unknown)."""
    device = platform.processor() or platform.machine()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "opencv-python-headless"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {
        **found,
        "platform": platform.platform(),
        "machine": platform.node(),
        "cores": os.cpu_count(),
        "device": device,
        "commit": _git("rev-parse", "HEAD") or None,
        "uncommitted_changes": None if changed is None else bool(changed),
    }


def _git(*command: str) -> str | None:
    """Output of git in this package's repository; None if there is no repository or git fails."""
    home = Path(__file__).parents[2]
    if not (home / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(home), *command],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
