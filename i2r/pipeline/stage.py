"""Running a stage: fill the store, run Snakemake, check the results, and update the experiment's view."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from i2r.config.experiment import STAGES
from i2r.config.load import Params, load
from i2r.errors import ROOM, sentence
from i2r.files import write_json
from i2r.pipeline import store
from i2r.pipeline.alone import began, wait_for_others
from i2r.pipeline.digests import digest
from i2r.pipeline.jobs import locked
from i2r.pipeline.plan import Plan, make_plan
from i2r.pipeline.spec import RESULTS, JobError, Spec, write_spec
from i2r.pipeline.steps import steps_of

ROUNDS = 12  # runs of Snakemake at most: a result made again may differ, so what was made from it follows next time


def prepare(params: Params, results: Path = RESULTS) -> Plan:
    """Plan the jobs of an experiment and write their specs, and nothing else.

    Raises:
        JobError: a spec cannot be written.
    """
    plan = make_plan(params)
    try:
        for spec in plan.jobs.values():
            write_spec(spec, results)
    except OSError as error:
        raise JobError(f"{sentence(error)}; specs are written to {results / 'specs'}") from None
    return plan


def run_stage(
    stage: str, cores: str = "all", configfiles: Sequence[Path] = (), results: Path = RESULTS
) -> None:
    """Run one stage of dvc.yaml, or `all`.

    Raises:
        JobError: a result is missing or damaged, Snakemake was killed, or another `i2r stage` is at work.
        SystemExit: Snakemake failed and has said why.
    """
    params = load(configfiles)
    with locked(results / "state" / "stage.lock", "the workflow", wait=False):
        plan = prepare(params, results)
        jobs = plan.of(stage)
        for wrong in store.check(plan, jobs, results):
            print(f"i2r: {wrong}; it is copied from its other place or made again", file=sys.stderr)
        store.fill(plan.experiment, results)
        if not problems(plan, jobs, results):
            print(f"i2r: nothing to do for {stage}: {len(jobs)} done", file=sys.stderr)
        else:
            _make(plan, stage, jobs, cores, configfiles, results)
        if others := by_other_code(plan, jobs, results):
            named = ", ".join(f"{count} of {step}" for step, count in Counter(s.step for s in others).items())
            print(
                f"i2r: made by other code than the present: {named} (`i2r plan` names them)", file=sys.stderr
            )
        store.show(plan, results)
    home = results / plan.experiment
    for step in steps_of(stage) if stage != "all" else []:
        # DVC needs each folder, even if the plan has no job for it
        name = "report" if stage == "report" else step.name
        (home / ("ablate" if stage == "ablate" else "") / name).mkdir(parents=True, exist_ok=True)


def _make(
    plan: Plan, stage: str, jobs: list[Spec], cores: str, configfiles: Sequence[Path], results: Path
) -> None:
    config = ["--configfile", *map(str, configfiles)] if configfiles else []
    for _ in range(ROUNDS):
        wait_for_others(results)
        snakemake(stage, "--cores", cores, *config, "--quiet", "host", "reason", "rules")
        wrong = problems(plan, jobs, results)
        if not wrong:
            return
    raise JobError(f"stage {stage} is not complete:\n" + "\n".join(wrong))


def problems(plan: Plan, jobs: list[Spec], results: Path = RESULTS) -> list[str]:
    """One sentence for each of these jobs whose result is missing, damaged or outdated."""
    located = store.Located(plan, results)
    return [text for spec in jobs if (text := located.problem(spec))]


def by_other_code(plan: Plan, jobs: list[Spec], results: Path = RESULTS) -> list[Spec]:
    """Finished jobs whose code has changed since, without a new version."""
    located = store.Located(plan, results)
    found = []
    for spec in jobs:
        values = store.manifest(located.folder(spec.key))
        if values is not None and values.get("code") not in (None, digest(spec.step, spec.params)):
            found.append(spec)
    return found


def write_plan(plan: Plan, results: Path = RESULTS) -> None:
    """Write one file for each stage, with its jobs and the digests of their code; DVC's stages depend on them."""
    for stage in STAGES:
        jobs = {
            f"{spec.step}/{label}": {"key": spec.key, "code": digest(spec.step, spec.params)}
            for spec in plan.of(stage)
            for label in plan.labels[spec.key]
        }
        write_json(results / plan.experiment / "plan" / f"{stage}.json", jobs)


def snakemake(*arguments: str) -> None:
    """Run Snakemake as from the command line. After Ctrl-C, wait until it has stopped its jobs.

    Raises:
        JobError: Snakemake was killed.
        SystemExit: Snakemake failed and has said why.
        KeyboardInterrupt: Snakemake has ended after SIGINT or SIGTERM.
    """
    print("i2r: snakemake", *arguments, file=sys.stderr, flush=True)
    folder = str(
        Path(sys.executable).parent
    )  # so that rules call this Python even if its environment is not activated
    environment = os.environ | {"PATH": folder + os.pathsep + os.environ.get("PATH", "")} | _caches()
    process = subprocess.Popen([sys.executable, "-m", "snakemake", *arguments], env=environment)
    stopped = False

    def stop(number: int, _: object) -> None:
        nonlocal stopped
        stopped = True
        if number == signal.SIGTERM:  # Ctrl-C reaches the process from the terminal
            process.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise KeyboardInterrupt
    if code < 0:
        raise JobError(f"snakemake was killed by signal {-code}; run the same command again to continue")
    if code:
        sys.exit(code)


def failures(plan: Plan, results: Path = RESULTS) -> list[str]:
    """One sentence for each job that did not finish since Snakemake began: job, log, and the log's last words."""
    located, found = store.Located(plan, results), []
    for spec, log in _since_began(plan, results):
        if located.problem(spec):
            found.append(f"{spec.title} did not finish ({log}): {_last_words(log)}")
    return found


def reports(plan: Plan, results: Path = RESULTS) -> list[str]:
    """One sentence for each report that was made since Snakemake began: where it is."""
    made = {spec.key for spec, _ in _since_began(plan, results) if spec.step == "report"}
    places = [results / view / "report.html" for view, spec in plan.named().items() if spec.key in made]
    return [f"{place}: the report" for place in places if place.is_file()]


def _since_began(plan: Plan, results: Path) -> Iterator[tuple[Spec, Path]]:
    """Jobs of the plan whose log was written since Snakemake began, with the log."""
    since = began(results)
    for spec in plan.jobs.values():
        log = results / "logs" / spec.step / f"{spec.key}.log"
        if log.is_file() and log.stat().st_mtime >= since:
            yield spec, log


def _last_words(log: Path) -> str:
    """The last sentence about an expected error in a log, or else the last line of its traceback."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = [line.removeprefix("i2r: ") for line in lines if line.startswith("i2r: ")]
    if said or any(line.startswith("Traceback") for line in lines):
        return (said or lines)[-1]
    if not lines:  # a job writes a line as soon as it has begun
        return f"its log is empty: it was stopped as it began, or the disk is full ({ROOM})"
    return f"it was killed, perhaps for want of memory or of room on the disk; its last line is {lines[-1]!r}"


def _caches() -> dict[str, str]:
    """Variables with a folder for the caches of Snakemake and Matplotlib, if the home folder cannot be written to."""
    try:
        caches = Path.home() / ".cache"
        caches.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=caches).close()
        return {}
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        pass
    folder = Path(tempfile.gettempdir()) / f"i2r-cache-{os.getuid()}"
    names = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    return {name: os.environ.get(name, str(folder)) for name in names}
