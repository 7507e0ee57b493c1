"""A stage of the plan on disk: bring results back, park those not planned, run Snakemake, check what was made.

DVC takes the folder of a stage as it is. So before a stage runs, what the plan does not name leaves that folder for
results/parked, which is part of no stage, and what the plan names comes back from there.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from i2r.config import schema as params
from i2r.files import write_json
from i2r.pipeline.jobs import JobError, locked, problem
from i2r.pipeline.plan import RESULTS, STAGES, Plan, Spec, make_plan, write_specs


def prepare(values: dict[str, Any], results: Path = RESULTS) -> Plan:
    """Check the params, plan their jobs, write the specs and bring back what was made before.

    Raises:
        ParamsError: naming the key that is wrong.
    """
    plan = make_plan(params.check(values, "params"))
    write_specs(plan, results)
    bring_back(plan, results)
    return plan


def bring_back(plan: Plan, results: Path = RESULTS) -> None:
    """Move finished results of planned jobs to where the plan has them.

    They lie in results/parked, or, for a method that went from run.methods to ablate.methods or back, in the folder
    of the other stage.
    """
    planned = {spec["folder"] for spec in plan.jobs}
    for spec in plan.jobs:
        folder = results / spec["folder"]
        if spec["step"] == "report" or (folder / spec["manifest"]).is_file():
            continue
        here, there = "store/ablate/", "store/"
        if not spec["folder"].startswith(here):
            here, there = there, here
        twin = there + spec["folder"].removeprefix(here)
        places = [results / "parked" / spec["key"]] + ([results / twin] if twin not in planned else [])
        for place in places:
            if (place / spec["manifest"]).is_file():
                _move(place, folder)
                break


def park(plan: Plan, stage: str, results: Path = RESULTS) -> list[Path]:
    """Move results that the plan does not name out of the stage's folders to results/parked; return their folders.

    Raises:
        JobError: if there are some while another Snakemake runs in this folder.
    """
    planned = {results / spec["folder"] for spec in plan.jobs}
    parked = []
    for place in STAGES[stage]:
        for folder in sorted((results / "store" / place).glob("*/*")):
            if folder in planned or not folder.is_dir():
                continue
            if any(Path(".snakemake/locks").glob("*")):
                raise JobError(
                    f"{folder} is not in the plan, but a Snakemake that runs here may need it: wait for it "
                    "(if none runs, one was killed: `snakemake --unlock`)"
                )
            if (folder / "manifest.json").is_file():
                _move(folder, results / "parked" / folder.name)
                parked.append(folder)
            else:
                shutil.rmtree(
                    folder
                )  # a job that was killed here; what it needs to go on lies in results/state
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
    return parked


def _move(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def state(spec: Spec, results: Path = RESULTS) -> str:
    """In a word: done, started (it goes on from its saved state) or to do."""
    if (results / spec["folder"] / spec["manifest"]).is_file():
        return "done"
    return "started" if (results / "state" / spec["key"]).is_dir() else "to do"


def read_values(configfile: Path | None = None) -> dict[str, Any]:
    """The values of params.yaml, with another file laid over them as Snakemake's --configfile is."""
    values = params.read("params.yaml")
    return _merge(values, params.read(configfile)) if configfile else values


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {k: _merge(below[k], v) if _nested(below.get(k), v) else v for k, v in above.items()}
    return below | both


def _nested(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


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
    config = ["--configfile", str(configfile)] if configfile else []
    with _running(results):
        plan = prepare(read_values(configfile), results)
        if stage != "all":
            for folder in park(plan, stage, results):
                print(f"i2r: {folder} is not in the plan: parked in {results / 'parked'}", file=sys.stderr)
        jobs = plan.jobs if stage == "all" else plan.of(stage)
        home = results / plan.params.experiment
        page, tracked = home / "report.html", home / f"tracked-{plan.report['key']}.json"
        last = stage in ("all", "report")
        if not problems(jobs, results) and (not last or (page.is_file() and tracked.is_file())):
            print(f"i2r: nothing to do for {stage}: {len(jobs)} done", file=sys.stderr)
        else:
            targets = ["report", "track"] if stage == "report" else [stage]
            snakemake(*targets, "--cores", cores, *config, "--quiet", "host", "reason", "rules")
            if last and not page.is_file():
                snakemake("all", "--report", str(page), *config)
            if wrong := problems(jobs, results):
                raise JobError(f"stage {stage} is not whole:\n" + "\n".join(wrong))
    for place in STAGES.get(
        stage, ()
    ):  # DVC wants each folder to be there, also where the plan has nothing for it
        (results / "store" / place).mkdir(parents=True, exist_ok=True)


def problems(jobs: list[Spec], results: Path = RESULTS) -> list[str]:
    """What is wrong with the products of these jobs, a sentence each."""
    return [text for spec in jobs if (text := problem(spec, results))]


def snakemake(*arguments: str) -> None:
    """Run Snakemake as one would by hand.

    Raises:
        JobError: if it failed; it has said why.
    """
    print("i2r: snakemake", *arguments, file=sys.stderr, flush=True)
    folder = str(
        Path(sys.executable).parent
    )  # rules call the same python, also where its environment is not active
    environment = os.environ | {"PATH": folder + os.pathsep + os.environ.get("PATH", "")}
    code = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments], check=False, env=environment
    ).returncode
    if code:
        raise JobError(f"snakemake ended with {code}; its messages above name the log of the job that failed")


@contextmanager
def _running(results: Path) -> Iterator[None]:
    """One `i2r stage` at a time; clears the lock that a killed one left in Snakemake, and only that."""
    record = results / "state" / "owner.json"
    with locked(results / "state" / "stage.lock", "the workflow", wait=False):
        if record.is_file() and _gone(json.loads(record.read_text())):
            print("i2r: the run before was killed: unlocking Snakemake", file=sys.stderr, flush=True)
            snakemake("--unlock")
        process = psutil.Process()
        write_json(record, {"host": platform.node(), "pid": process.pid, "since": process.create_time()})
        try:
            yield
        finally:
            record.unlink()


def _gone(owner: dict[str, Any]) -> bool:
    """Whether the process that left the record, and every Snakemake that it may have left, has ended."""
    if owner["host"] != platform.node():
        return False
    for process in psutil.process_iter(["pid", "create_time", "cmdline", "cwd"]):
        if process.info["pid"] == owner["pid"] and process.info["create_time"] == owner["since"]:
            return False
        if "snakemake" in " ".join(process.info["cmdline"] or []) and process.info["cwd"] == os.getcwd():
            return False
    return True
