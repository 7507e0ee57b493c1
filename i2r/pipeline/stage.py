"""A stage on disk: fill the store, run Snakemake, check what was made, and show it in the experiment's view."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from i2r.config.base import ParamsError
from i2r.config.load import PARAMS, Params, load
from i2r.config.schema import STAGES
from i2r.files import read_json, write_json
from i2r.pipeline import store
from i2r.pipeline.digests import digest
from i2r.pipeline.jobs import locked
from i2r.pipeline.plan import RESULTS, Plan, make_plan
from i2r.pipeline.spec import JobError, Spec, write_spec
from i2r.pipeline.steps import steps_of

ROUNDS = 12  # of Snakemake: a result made again may differ, and then what was made from it is made again, too


def prepare(params: Params, results: Path = RESULTS) -> Plan:
    """Plan the jobs of an experiment and write their specs; nothing else is touched.

    Raises:
        JobError: a spec cannot be written.
    """
    plan = make_plan(params)
    try:
        for spec in plan.jobs.values():
            write_spec(spec, results)
    except OSError as error:
        raise JobError(
            f"{error.filename}: {error.strerror}; specs are written to {results / 'specs'}"
        ) from None
    return plan


def from_snakemake(configfiles: Sequence[Path], config: dict[str, Any] | None) -> Plan:
    """The plan for a Snakemake that was called with these --configfile and --config.

    Raises:
        ParamsError: naming what is wrong with the params, or several config files.
    """
    return prepare(read_params(configfiles, config))


def read_params(configfiles: Sequence[Path] = (), config: dict[str, Any] | None = None) -> Params:
    """Params of params.yaml, or of another file in its place, with values of the command line on top.

    Raises:
        ParamsError: naming what is wrong with the params, or several config files.
    """
    if len(configfiles) > 1:
        raise ParamsError(
            "one --configfile at a time: it takes the place of params.yaml. A file that begins with "
            "`extends: OTHER.yaml` is laid over OTHER.yaml"
        )
    return load(configfiles[0] if configfiles else PARAMS, config)


def gpus(device: str) -> int:
    """How many GPUs a job with this runtime.device takes, without importing torch."""
    present = any(Path("/dev").glob("nvidia[0-9]*"))
    return int(device.startswith("cuda") or (device == "auto" and present))


def run_stage(
    stage: str, cores: str = "all", configfile: Path | None = None, results: Path = RESULTS
) -> None:
    """Run one stage of dvc.yaml; `all` is everything.

    Raises:
        JobError: if Snakemake failed or a product is not what its manifest says.
    """
    params = read_params([configfile] if configfile else [])
    with one_at_a_time(results):
        plan = prepare(params, results)
        jobs = plan.of(stage)
        for wrong in store.check(plan, jobs, results):
            print(f"i2r: {wrong}", file=sys.stderr)
        store.fill(plan.experiment, results)
        if not problems(plan, jobs, results):
            print(f"i2r: nothing to do for {stage}: {len(jobs)} done", file=sys.stderr)
        else:
            _make(plan, stage, jobs, cores, configfile, results)
        if others := by_other_code(plan, jobs, results):
            named = ", ".join(f"{count} of {step}" for step, count in Counter(s.step for s in others).items())
            print(
                f"i2r: made by other code than the present: {named} (`i2r plan` names them)", file=sys.stderr
            )
        store.show(plan, results)
    home = results / plan.experiment
    for step in steps_of(stage) if stage != "all" else []:
        # DVC wants each folder to be there, also where the plan has nothing for it
        name = "report" if stage == "report" else step.name
        (home / ("ablate" if stage == "ablate" else "") / name).mkdir(parents=True, exist_ok=True)


def _make(
    plan: Plan, stage: str, jobs: list[Spec], cores: str, configfile: Path | None, results: Path
) -> None:
    config = ["--configfile", str(configfile)] if configfile else []
    for _ in range(ROUNDS):
        snakemake(stage, "--cores", cores, *config, "--quiet", "host", "reason", "rules")
        wrong = problems(plan, jobs, results)
        if not wrong:
            return
    raise JobError(f"stage {stage} is not whole:\n" + "\n".join(wrong))


def problems(plan: Plan, jobs: list[Spec], results: Path = RESULTS) -> list[str]:
    """What is wrong with the results of these jobs, a sentence each."""
    located = store.Located(plan, results)
    return [text for spec in jobs if (text := located.problem(spec))]


def by_other_code(plan: Plan, jobs: list[Spec], results: Path = RESULTS) -> list[Spec]:
    """Finished jobs whose code has changed since, though its version has not been raised."""
    located = store.Located(plan, results)
    found = []
    for spec in jobs:
        values = store.manifest(located.folder(spec.key))
        if values is not None and values.get("code") not in (None, digest(spec.step, spec.params)):
            found.append(spec)
    return found


def write_plan(plan: Plan, results: Path = RESULTS) -> None:
    """One file a stage with its jobs and the digests of their code: what DVC's stages depend on."""
    for stage in STAGES:
        jobs = {
            f"{spec.step}/{label}": {"key": spec.key, "code": digest(spec.step, spec.params)}
            for spec in plan.of(stage)
            for label in plan.labels[spec.key]
        }
        write_json(results / plan.experiment / "plan" / f"{stage}.json", jobs)


def snakemake(*arguments: str) -> None:
    """Run Snakemake as one would by hand, and wait for it also after Ctrl-C, while it ends its jobs.

    Raises:
        JobError: if it failed; it has said why.
        KeyboardInterrupt: after SIGINT or SIGTERM, when it has ended.
    """
    print("i2r: snakemake", *arguments, file=sys.stderr, flush=True)
    folder = str(
        Path(sys.executable).parent
    )  # rules call the same python where its environment is not active, too
    environment = os.environ | {"PATH": folder + os.pathsep + os.environ.get("PATH", "")}
    process = subprocess.Popen([sys.executable, "-m", "snakemake", *arguments], env=environment)
    stopped = False

    def stop(number: int, _: object) -> None:
        nonlocal stopped
        stopped = True
        if number == signal.SIGTERM:  # Ctrl-C reaches it from the terminal
            process.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise KeyboardInterrupt
    if code:
        raise JobError(f"snakemake ended with {code}; its messages above name the log of the job that failed")


@contextmanager
def one_at_a_time(results: Path = RESULTS) -> Iterator[None]:
    """One `i2r stage` at a time; clears the lock that a killed one left in Snakemake, and only that."""
    record = results / "state" / "owner.json"
    with locked(results / "state" / "stage.lock", "the workflow", wait=False):
        if record.is_file() and _gone(read_json(record)):
            print("i2r: the run before was killed: unlocking Snakemake", file=sys.stderr, flush=True)
            snakemake("--unlock")
        process = psutil.Process()
        write_json(record, {"host": platform.node(), "pid": process.pid, "since": process.create_time()})
        try:
            yield
        finally:
            if not any(Path(".snakemake/locks").glob("*")):
                record.unlink(missing_ok=True)


def _gone(owner: dict[str, Any]) -> bool:
    """Whether the process that left the record, and every Snakemake that it may have left, has ended."""
    if owner["host"] != platform.node():
        return False
    for process in psutil.process_iter(["pid", "create_time", "cmdline", "cwd"]):
        if process.info["pid"] == owner["pid"] and process.info["create_time"] == owner["since"]:
            return False
        words = process.info["cmdline"] or []
        runs = (
            any(Path(word).name == "snakemake" for word in words[:3]) and process.info["cwd"] == os.getcwd()
        )
        if runs and process.pid != os.getpid():
            return False
    return True
