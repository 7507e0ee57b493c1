"""One job of the plan: from its spec (a file) to its products and their manifest.

A spec says everything that a job is made with; its key is the hash of that. A job reads no params.yaml, writes to a
temporary folder, and its manifest, written last, is what says that the products are whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import importlib.metadata
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from i2r.config import schema as params
from i2r.files import canonical, read_json, sha256, write_json

FUNCTIONS = {
    "data": "i2r.data.dataset:run",
    "lists": "i2r.data.lists:run",
    "episodes": "i2r.data.episodes:run",
    "backbone": "i2r.steps.backbone:run",
    "base_learner": "i2r.steps.base_learner:run",
    "cam_head": "i2r.steps.cam_head:run",
    "train": "i2r.steps.train:run",
    "evaluate": "i2r.steps.evaluate:run",
    "baselines": "i2r.steps.baselines:run",
    "report": "i2r.report.page:run",
}

# The version of each step's code is part of its jobs' keys: raise it when the numbers that the step makes change.
VERSIONS = {
    "data": 1,
    "lists": 1,
    "episodes": 1,
    "backbone": 2,
    "base_learner": 2,
    "cam_head": 2,
    "train": 3,
    "evaluate": 2,
    "baselines": 2,
    "report": 4,
}


class JobError(RuntimeError):
    """A job that cannot run or did not make what it should; the message says what to do."""


@dataclass(frozen=True)
class Job:
    """What a step's function gets.

    Attributes:
        args: fold, shot, seed, method, eval_seed: those that the step has.
        params: the sections that the step uses; "method" holds the resolved options of this job's method.
        inputs: folders of finished jobs ("data", "lists", ..., for the report "<step>/<name>").
        out: folder for the products; temporary, moved into place when the function has returned.
        state: folder for what the job needs to go on after it was killed; removed when the job is done.
        data_root: the folder of the data set, with JPEGImages/ and SegmentationClassAug/.
    """

    step: str
    key: str
    name: str
    args: dict[str, Any]
    params: dict[str, Any]
    inputs: dict[str, Path]
    out: Path
    state: Path
    runtime: params.Runtime
    data_root: Path | None


def key_of(spec: dict[str, Any]) -> str:
    """The key of a spec: a hash of all that decides the job's numbers, the keys of its inputs included."""
    decides = {name: spec[name] for name in ("step", "args", "params", "version")}
    decides["inputs"] = {name: Path(folder).name for name, folder in spec["inputs"].items()}
    return hashlib.sha256(canonical(decides).encode()).hexdigest()[:12]


def read_spec(path: Path, step: str | None = None) -> dict[str, Any]:
    """A spec whose key fits its content and the present code.

    Raises:
        JobError: if the file is missing, was changed by hand, or was made for another version of the code.
    """
    if not path.is_file():
        raise JobError(f"{path}: no such spec; `i2r plan` writes the specs of all jobs")
    spec = read_json(path)
    if step is not None and spec["step"] != step:
        raise JobError(f"{path}: is the spec of a job of step {spec['step']}, not {step}")
    if key_of(spec) != spec["key"]:
        raise JobError(f"{path}: the key {spec['key']} does not fit the content; `i2r plan` writes it anew")
    if spec["version"] != VERSIONS[spec["step"]]:
        raise JobError(
            f"{path}: made for version {spec['version']} of step {spec['step']}, "
            f"the code is at version {VERSIONS[spec['step']]}; run `snakemake` or `i2r plan` again"
        )
    return spec


def manifest_of(spec: dict[str, Any], results: Path) -> Path:
    """Where the manifest of a job lies."""
    return results / spec["folder"] / spec["manifest"]


def problem(spec: dict[str, Any], results: Path) -> str | None:
    """What is wrong with a job's products on disk, in a sentence; None if they are there and whole."""
    path = manifest_of(spec, results)
    if not path.is_file():
        return f"{path}: missing"
    manifest = read_json(path)
    if manifest["spec"]["key"] != spec["key"]:
        return f"{path}: belongs to the job {manifest['spec']['key']}, not {spec['key']}"
    for name, digest in manifest["products"].items():
        product = path.parent / name
        if not product.exists():
            return f"{product}: missing"
        if sha256(product) != digest:
            return f"{product}: is not what {path.name} says was made"
    return None


def sections_of(spec: dict[str, Any]) -> dict[str, Any]:
    """The sections of params that a spec's job was made with, paths included.

    Raises:
        JobError: if a file of weights that the params name is no longer what it was when the job was planned.
    """
    sections = {
        name: dict(value) if isinstance(value, dict) else value for name, value in spec["params"].items()
    }
    if "data" in sections:
        sections["data"]["root"] = spec["data_root"]
    for where, path in spec.get("files", {}).items():
        section, name = where.split(".")
        if not Path(path).is_file() or sha256(path) != sections[section][name]:
            raise JobError(f"{path}: missing, or another file than when {spec['name']} was planned with it")
        sections[section][name] = path
    return sections


@contextmanager
def locked(path: Path, what: str, wait: bool = True) -> Iterator[None]:
    """Hold a lock file; the system frees it when its process ends, however it ends.

    Raises:
        JobError: naming the holder, if it is taken and `wait` is False.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                if not wait:
                    raise JobError(f"{what} is being worked on by {holder}") from None
                print(f"{what} is being worked on by {holder}: waiting for it", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                continue  # the holder before finished and removed the file together with its folder
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            yield
            return


def run_job(spec_path: str | Path, step: str | None = None) -> dict[str, Any]:
    """Do the job of a spec file (results/specs/<key>.json) and return its manifest.

    Raises:
        JobError: if the spec or an input is not usable, or a product was not made.
    """
    spec_path = Path(spec_path)
    spec = read_spec(spec_path, step)
    results = next(folder for folder in spec_path.resolve().parents if folder.name == "specs").parent
    state = results / "state" / spec["key"]
    label = f"{spec['step']} {spec['name']}"
    with locked(state / "lock", label):
        if problem(spec, results) is None:  # an orphan of a killed run finished it while this one waited
            print(f"{label}: already made", file=sys.stderr)
        else:
            print(f"{label}: started", file=sys.stderr, flush=True)
            seconds = _make(spec, results, state)["times"]["seconds"]
            print(f"{label}: done in {seconds:.0f} s", file=sys.stderr, flush=True)
        shutil.rmtree(state)
    return read_json(manifest_of(spec, results))


def _make(spec: dict[str, Any], results: Path, state: Path) -> dict[str, Any]:
    inputs = {name: results / folder for name, folder in spec["inputs"].items()}
    for name, folder in inputs.items():
        if not (folder / "manifest.json").is_file():
            raise JobError(
                f"{spec['step']} {spec['name']}: its input {name} is missing ({folder}); run `snakemake`"
            )
    out = state / "out"
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)

    job = Job(
        step=spec["step"],
        key=spec["key"],
        name=spec["name"],
        args=spec["args"],
        params=sections_of(spec),
        inputs=inputs,
        out=out,
        state=state,
        runtime=params.Runtime(**spec["runtime"]),
        data_root=Path(spec["data_root"]) if spec["data_root"] else None,
    )
    started = datetime.now(UTC)
    clock = time.monotonic()
    metrics = _function(job)(job)
    if "metrics.jsonl" in spec["products"]:
        (out / "metrics.jsonl").touch()  # a step that had nothing to train leaves an empty log
    for name in spec["products"]:
        if not (out / name).exists():
            raise JobError(f"{spec['step']} {spec['name']}: {FUNCTIONS[spec['step']]} made no {name}")
    manifest = {
        "spec": spec,
        "products": {path.name: sha256(path) for path in sorted(out.iterdir())},
        "metrics": metrics or {},
        "environment": environment(),
        "times": {
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
        },
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    _install(spec, manifest, out, results)
    return manifest


def _function(job: Job) -> Any:
    """The step's function, with threads and random numbers set; torch only where the step itself imports it."""
    threads = str(job.runtime.threads)
    os.environ.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads)
    module, name = FUNCTIONS[job.step].split(":")
    function = getattr(importlib.import_module(module), name)
    seed = job.args.get("seed", 0)
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(job.runtime.threads)
        torch.manual_seed(seed)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(job.runtime.threads)
    return function


def _install(spec: dict[str, Any], manifest: dict[str, Any], out: Path, results: Path) -> None:
    """Move products into place, after whatever lay there before, and the manifest last."""
    path = manifest_of(spec, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    stale = [path.parent / name for name in manifest["products"]]
    if spec["step"] == "report":  # its folder has one name for all keys: what an earlier report left goes
        for earlier in path.parent.glob("report-*.json"):
            stale += [path.parent / name for name in read_json(earlier)["products"]] + [earlier]
        stale += [*path.parent.glob("tracked-*.json"), path.parent / "report.html"]
    for old in stale:
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    for name in manifest["products"]:
        (out / name).replace(path.parent / name)
    write_json(path, manifest)


def environment() -> dict[str, Any]:
    """What a job ran with: versions, machine, device and git commit (None outside a repository)."""
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
    return {
        **found,
        "platform": platform.platform(),
        "machine": platform.node(),
        "cores": os.cpu_count(),
        "device": device,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _git(*command: str) -> str | None:
    try:
        done = subprocess.run(["git", *command], check=False, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
