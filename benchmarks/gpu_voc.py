"""The preset voc-small-gpu as far as a time limit allows, with the times of a training step's parts.

First the parts of a step, from which the number of steps of a training follows, then the targets of the preset in turn,
several jobs at a time: each target that is complete is a result. After each item, what is known is written to --out:
timings.json, timings.md, runs.csv, and archives of the scores, pictures and reports.

    python benchmarks/gpu_voc.py --minutes 10 --out gpu-voc

`--trial` runs every item with one step and two episodes of fold 0 on small images, to see on a CPU that all works.
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

import yaml
from gpu_step import Way, machine, measured

from i2r.config.load import load
from i2r.pipeline.plan import Plan, make_plan
from i2r.pipeline.spec import RESULTS
from i2r.report.finished import ResultsError, read_job, read_steps

PRESET = "voc-small-gpu"
TARGETS = (
    "seed0",
    "seed1 seed2 wrong priors",
    "ordered",
    "five",
    "table1 table3",
)  # in turn; the last has reports
NETWORK = {"width": 64, "blocks": 2, "cross": 2, "dropout": 0.0, "reduce_dropout": 0.0, "ensemble": False}
PARTS = ("load_s", "replay_s", "seconds")
TRAININGS = 48  # of three seeds
SHARE = 0.62  # of the time, for these
LIMITS = (400, 2500)  # steps of a training
ENDING = 25  # seconds before the end at which the item at work is stopped
PICTURES = ("i2r-1shot", "bam-1shot")  # whose pictures are kept, of seed 0
TRIAL = {
    "data": {"size": 65, "min_area": 839},
    "base_learner": {"steps": 1, "batch": 2},
    "train": {"batch": 2},
    "evaluate": {"episodes": 2},
    "report": {"bootstrap": 10},
    "targets": {name: {"folds": [0]} for names in TARGETS for name in names.split()},
    "runtime": {"workers": 0, "cache_gb": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="time for everything")
    parser.add_argument("--out", type=Path, default=Path("gpu-voc"), help="folder for what is known so far")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--steps", type=int, help="of a training; default: chosen from the time of a step")
    parser.add_argument("--jobs", type=int, default=12, help="at a time on the GPU")
    parser.add_argument("--trial", action="store_true", help="one step of everything")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes - ENDING
    options.out.mkdir(parents=True, exist_ok=True)
    about = argparse.Namespace(size=321, batch=8, rounds=5, backbone="resnet50", device=options.device)
    if options.trial:
        about.size, about.batch, about.rounds = 65, 2, 1
    parts = measured(Way("I2R, backbone in bf16, graph", about, **NETWORK), about)
    steps = options.steps or (
        1 if options.trial else affordable(parts["kernels"]["seconds"], options.minutes)
    )
    found = {"machine": machine(about), "parts": parts, "steps": steps, "items": {}}
    params = write_params(options, steps)
    plan = make_plan(load(params))
    for words in TARGETS:
        began = time.monotonic()
        if began >= end:
            break
        done = snakemake(words, params, options.jobs, end - began)
        found["items"][words] = {"done": done, "seconds": round(time.monotonic() - began, 1)}
        save(options.out, found, plan)
    print((options.out / "timings.md").read_text(encoding="utf-8"))


def affordable(seconds: float, minutes: float) -> int:
    """Steps of a training, in hundreds, if the GPU does one after the other, each of which takes these seconds."""
    steps = SHARE * 60 * minutes / (TRAININGS * seconds)
    return min(LIMITS[1], max(LIMITS[0], int(steps // 100 * 100)))


def write_params(options: argparse.Namespace, steps: int) -> Path:
    """The params file: the preset with the number of steps and the device."""
    values = json.loads(json.dumps(TRIAL if options.trial else {}))
    values.setdefault("train", {})["steps"] = steps
    values.setdefault("runtime", {}).update(device=options.device, jobs_per_gpu=options.jobs)
    path = options.out / "params.yaml"
    path.write_text(yaml.safe_dump({"extends": f"{PRESET}.yaml", **values}), encoding="utf-8")
    return path


def snakemake(words: str, params: Path, jobs: int, seconds: float) -> bool:
    """Make what the words name, up to `jobs` jobs of the GPU at a time; whether it was complete in time.

    Reports are left for the end, because the GPU waits for them.
    """
    command = [sys.executable, "-m", "snakemake", *words.split(), "--configfile", str(params)]
    command += ["--cores", str(2 * jobs), "--scheduler", "greedy"]
    if words != TARGETS[-1]:
        command += ["--omit-from", "report_job"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(timeout=seconds) == 0
    except subprocess.TimeoutExpired:
        print(f"{words}: stopped, because the time is over", file=sys.stderr)
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
    rows, scores, pictures = [], [], []
    for key, spec in plan.jobs.items():
        try:
            job = read_job(RESULTS / spec.folder)
        except ResultsError:  # not finished
            continue
        name = plan.labels[key][0]
        kept = [
            file
            for file in ("manifest.json", *job.products)
            if not file.endswith((".safetensors", ".parquet"))
        ]
        scores += [job.folder / file for file in kept if file != "pictures.npz"]
        if "pictures.npz" in kept and name.startswith(PICTURES) and "-seed0-" in name:
            pictures.append(job.folder / "pictures.npz")
        row = {"step": spec.step, "name": name, **job.args, "job_seconds": job.times["seconds"]}
        if spec.step == "train":
            steps = read_steps(job.folder / "metrics.jsonl")
            for part in PARTS:
                values = [line[part] for line in steps[len(steps) // 10 :] if part in line]
                row |= {part: statistics.median(values)} if values else {}
        rows.append(row | {n: job.metrics.get(n) for n in ("loss", "gpu_memory_gb", "miou", "fb_iou")})
    found["trainings"] = sum(row["step"] == "train" for row in rows)
    found["evaluations"] = sum(row["step"] == "evaluate" for row in rows)
    (out / "timings.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / "timings.md").write_text(markdown(found), encoding="utf-8")
    with (out / "runs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
        writer.writeheader()
        writer.writerows(rows)
    reports = [path for path in Path(f"results/{PRESET}/report").rglob("*") if path.is_file()]
    for name, files in (("scores", scores), ("pictures", pictures), ("reports", reports)):
        with tarfile.open(out / f"{name}.tar.gz", "w:gz") as archive:
            for file in files:
                archive.add(file)


def markdown(found: dict) -> str:
    """The timings as tables."""
    lines = [
        f"{found['machine']['card']}, {found['steps']} steps a training: {found['trainings']} trainings and "
    ]
    lines[0] += f"{found['evaluations']} evaluations are done."
    lines += ["", "| item | complete | seconds |", "| --- | --- | --: |"]
    lines += [f"| {n} | {'yes' if i['done'] else 'no'} | {i['seconds']} |" for n, i in found["items"].items()]
    lines += ["", "| part of a step | ms |", "| --- | --: |"]
    parts = {
        name: value
        for name, value in found["parts"].items()
        if isinstance(value, float) and name.endswith("s")
    }
    lines += [f"| {name} | {1000 * seconds:.1f} |" for name, seconds in parts.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
