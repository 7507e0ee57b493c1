"""The preset voc-small-gpu as far as a time limit allows, with the times of a training step's parts.

First the parts of a step, then two trainings alone (fp32 and bf16, for their times and memory), then the targets of the
preset in turn, several jobs at a time: each target that is complete is a result. After each item, what is known is
written to --out: timings.json, timings.md, runs.csv, and results.tar.gz with the scores, for a report elsewhere.

    python benchmarks/gpu_voc.py --minutes 10 --out gpu-voc

`--trial` runs every item with one step and two episodes of fold 0 on small pictures, to see on a CPU that all works.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import step
import torch
import yaml

from i2r.config.load import load
from i2r.pipeline.plan import Plan, make_plan
from i2r.pipeline.spec import RESULTS
from i2r.report.results import ResultsError, read_job, read_steps

PRESET = "voc-small-gpu"
TARGETS = ("seed0", "seed1", "seed2", "five", "bf16")
PARTS = ("load_s", "encode_s", "decode_s", "backward_s", "seconds")
ALONE = tuple(f"results/{PRESET}/train/{name}-1shot-fold0-seed0" for name in ("i2r", "i2r-bf16"))
SHARE = 0.25  # of the time, in which the 16 trainings of a seed fit if the GPU does one step at a time
ENDING = 30  # seconds before the end at which the item at work is stopped
TRIAL = {
    "data": {"size": 65, "min_area": 839},
    "base_learner": {"steps": 1, "batch": 2},
    "train": {"batch": 2},
    "evaluate": {"episodes": 2},
    "report": {"bootstrap": 10},
    "targets": {name: {"folds": [0]} for name in TARGETS},
    "runtime": {"workers": 0, "cache_gb": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="time for everything")
    parser.add_argument("--out", type=Path, default=Path("gpu-voc"), help="folder for what is known so far")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--steps", type=int, help="of a training; default: chosen from the time of a step")
    parser.add_argument("--jobs", type=int, default=8, help="at a time on the GPU")
    parser.add_argument("--trial", action="store_true", help="one step of everything")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes - ENDING
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"device": device_name(options.device), "parts": step_parts(options), "items": {}}
    steps = 1 if options.trial else options.steps or affordable(found["parts"], options.minutes)
    found["steps"] = steps
    params = write_params(options, steps)
    plan = make_plan(load(params))
    for words, jobs in ((ALONE, 1), *(((target,), options.jobs) for target in TARGETS)):
        began = time.monotonic()
        if began >= end:
            break
        done = snakemake(words, params, jobs, end - began)
        found["items"][" ".join(words)] = {"done": done, "seconds": round(time.monotonic() - began, 1)}
        save(options.out, found, plan)
    print((options.out / "timings.md").read_text(encoding="utf-8"))


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def step_parts(options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a step's parts without loading, see step.py."""
    size, batch, rounds = (65, 1, 1) if options.trial else (321, 4, 5)
    about = argparse.Namespace(size=size, batch=batch, rounds=rounds, device=options.device)
    parts = {name: statistics.median(seconds) for name, seconds in step.measure(about).items()}
    if options.device.startswith("cuda"):
        torch.cuda.empty_cache()
    return parts


def affordable(parts: dict[str, float], minutes: float) -> int:
    """Steps of a training, in hundreds."""
    steps = SHARE * 60 * minutes / (16 * parts["I2R, training step"])
    return min(3000, max(100, int(steps // 100 * 100)))


def write_params(options: argparse.Namespace, steps: int) -> Path:
    """The params file: the preset with the number of steps and the device."""
    values = json.loads(json.dumps(TRIAL if options.trial else {}))
    values.setdefault("train", {})["steps"] = steps
    values.setdefault("runtime", {})["device"] = options.device
    path = options.out / "params.yaml"
    path.write_text(yaml.safe_dump({"extends": f"{PRESET}.yaml", **values}), encoding="utf-8")
    return path


def snakemake(words: tuple[str, ...], params: Path, jobs: int, seconds: float) -> bool:
    """Make what the words name, up to `jobs` jobs of the GPU at a time; whether it was complete in time."""
    command = [sys.executable, "-m", "snakemake", *words, "--configfile", str(params)]
    command += ["--cores", str(max(jobs, os.cpu_count() or 1)), "--resources", f"gpu={jobs}", "network=1"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(timeout=seconds) == 0
    except subprocess.TimeoutExpired:
        print(f"{' '.join(words)}: stopped, because the time is over", file=sys.stderr)
    for number, wait in ((signal.SIGINT, 15), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    return False


def save(out: Path, found: dict, plan: Plan) -> None:
    """Write what is known so far."""
    rows, kept = [], []
    for key, spec in plan.jobs.items():
        try:
            job = read_job(RESULTS / spec.folder)
        except ResultsError:  # not finished
            continue
        if spec.step in ("train", "evaluate"):
            kept += [
                (job.folder, name) for name in ("manifest.json", *job.products) if ".safetensors" not in name
            ]
            row = {
                "step": spec.step,
                "name": plan.labels[key][0],
                **job.args,
                "job_seconds": job.times["seconds"],
            }
            steps = read_steps(job.folder / "metrics.jsonl")
            later = steps[len(steps) // 10 :]  # the first steps are slower
            row |= {name: statistics.median(line[name] for line in later) for name in PARTS if later}
            rows.append(
                row | {name: job.metrics.get(name) for name in ("loss", "gpu_memory_gb", "miou", "fb_iou")}
            )
    found["trainings"] = sum(row["step"] == "train" for row in rows)
    found["evaluations"] = len(rows) - found["trainings"]
    found["alone"] = [row for row in rows if any(word.endswith(row["name"]) for word in ALONE)]
    (out / "timings.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / "timings.md").write_text(markdown(found), encoding="utf-8")
    with (out / "runs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
        writer.writeheader()
        writer.writerows(rows)
    with tarfile.open(out / "results.tar.gz", "w:gz") as archive:
        for folder, name in kept:
            archive.add(folder / name)


def markdown(found: dict) -> str:
    """The timings as tables."""
    lines = [f"{found['device']}, {found['steps']} steps a training: {found['trainings']} trainings and "]
    lines[0] += f"{found['evaluations']} evaluations are done."
    lines += ["", "| item | complete | seconds |", "| --- | --- | --: |"]
    lines += [f"| {n} | {'yes' if i['done'] else 'no'} | {i['seconds']} |" for n, i in found["items"].items()]
    lines += ["", "| part of a step | ms |", "| --- | --: |"]
    lines += [f"| {name} | {1000 * seconds:.1f} |" for name, seconds in found["parts"].items()]
    names = [*PARTS, "gpu_memory_gb"]
    lines += ["", f"| training alone | {' | '.join(names)} |", f"| --- |{' --: |' * len(names)}"]
    for row in found["alone"]:
        numbers = (row.get(name) for name in names)
        lines.append(f"| {row['name']} | {' | '.join('-' if n is None else f'{n:.4f}' for n in numbers)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
