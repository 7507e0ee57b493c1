"""Time, memory and disk of a data set's index as Parquet and, for comparison, as JSON.

The index is generated: as many images as COCO-20i has, of 80 classes, with two or three classes each. Every row is
measured in a process of its own, whose peak memory is given; for writing this includes the index itself.

    python benchmarks/index.py
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from i2r.data.coco import COCO_CLASSES
from i2r.data.index_table import read_index, read_summary, write_index
from i2r.files import read_json, write_json

IMAGES = {"train": 82081, "val": 40137}


def generated(images: int) -> dict[str, Any]:
    """An index with this number of images, divided as in COCO-20i."""
    rng = np.random.default_rng(0)
    index: dict[str, Any] = {"source": "coco", "classes": list(COCO_CLASSES), "digest": "0" * 64}
    index |= {"sizes": {}, "files": {}}
    for split, count in IMAGES.items():
        index[split] = {}
        for number in range(count * images // sum(IMAGES.values())):
            name = f"COCO_{split}2014_{number:012d}"
            classes = np.unique(rng.integers(1, 81, rng.integers(1, 6)))
            index[split][name] = {str(cls): int(rng.integers(1, 200_000)) for cls in classes}
            index["sizes"][name] = [480, 640]
            index["files"][name] = [hashlib.sha256(f"{name}{kind}".encode()).hexdigest() for kind in "im"]
    return index


def measured(name: str, folder: Path, images: int) -> tuple[float, float]:
    """Seconds of an action, and the peak memory of this process in MB."""
    table, text = folder / "index.parquet", folder / "index.json"
    actions: dict[str, Callable[[], object]] = {
        "JSON, read": lambda: read_json(text),
        "Parquet, images and classes read": lambda: read_index(table),
        "Parquet, everything read": lambda: read_index(table, "sizes", "files"),
        "Parquet, summary read": lambda: read_summary(table),
    }
    if name.endswith("written"):
        index = generated(images)
        actions["JSON, written"] = lambda: write_json(text, index)
        actions["Parquet, written"] = lambda: write_index(table, index)
    began = time.perf_counter()
    actions[name]()
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=sum(IMAGES.values()))
    images = parser.parse_args().images
    rows = ("JSON, written", "JSON, read", "Parquet, written", "Parquet, images and classes read")
    with tempfile.TemporaryDirectory() as folder:
        for name in (*rows, "Parquet, everything read", "Parquet, summary read"):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                seconds, memory = pool.submit(measured, name, Path(folder), images).result()
            print(f"{name:34} {seconds:8.3f} s {memory:8.0f} MB", flush=True)
        for file in sorted(Path(folder).iterdir()):
            print(f"{file.name:34} {file.stat().st_size / 1e6:8.1f} MB")


if __name__ == "__main__":
    main()
