"""Replaces every step's module in a copy of the project: writes each product at once, and records that it ran."""

import json
import os
import time
from pathlib import Path

from i2r.pipeline.jobs import Job
from i2r.pipeline.steps import STEPS


def run(job: Job) -> dict:
    if job.step == "data":
        (job.out / "VOC").mkdir()
        (job.out / "VOC" / "image.jpg").write_text("an image")
        (job.out / "objects.csv").write_text("")  # of generated images only, so not among the step's products
    for name in STEPS[job.step].products:
        product = job.out / name
        if name == "figures":
            product.mkdir()
            product = product / "miou.png"
        made = {"args": job.args, "params": job.params}
        made["inputs"] = {role: (path / "manifest.json").is_file() for role, path in job.inputs.items()}
        if Path("outcome").exists():  # for a step that is not deterministic
            made["outcome"] = Path("outcome").read_text(encoding="utf-8")
        product.write_text("" if name == "metrics.jsonl" else json.dumps(made))
    where = f"on {os.environ.get('SLURMD_NODENAME')} with GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}"
    with Path("ran.txt").open("a", encoding="utf-8") as file:
        file.write(f"{job.step} {job.label} {where}\n")
    while (Path("slow") / job.step).exists():
        time.sleep(0.1)
    _disturb(job)
    return {"answer": 42}


def _disturb(job: Job) -> None:
    """What a test has asked for: other times of files, memory that is used."""
    if (skew := Path("skew") / job.step).exists():  # seconds by which the clock is wrong
        when = time.time() + float(skew.read_text(encoding="utf-8"))
        for product in job.out.iterdir():
            os.utime(product, (when, when))
    if (memory := Path("memory") / job.step).exists():  # MB
        used = bytearray(b"x") * (int(memory.read_text(encoding="utf-8")) * 2**20)
        time.sleep(4)
        del used
