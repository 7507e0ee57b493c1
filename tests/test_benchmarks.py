"""The benchmarks run; their times are not checked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from data_samples import write_voc

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "row"),
    [
        ("step.py", ["--size", "65", "--batch", "1", "--rounds", "1"], r"BAM, evaluation +\d+\.\d+ units"),
        ("index.py", ["--images", "300"], r"Parquet, written +\d+\.\d+ s"),
        (
            "decoder.py",
            ["--setting", "published", "--size", "65", "--rounds", "1"],
            r"as it is +encoder +\d+, forward +\d+, backward +\d+ ms, step 1\.000 \[1\.000, 1\.000\], same bytes",
        ),
        ("attention_masks.py", ["--side", "5", "--rounds", "1"], r"dicm +\d+\.\d+ ms"),
        (
            "gpu_step.py",
            ["--device", "cpu", "--size", "65", "--batch", "2", "--rounds", "1", "--only", "BAM, fp32"],
            r"\"encode_s\": \d",
        ),
        (
            "loading.py",
            ["--size", "33", "--rounds", "1", "--images", "9"],
            r"i2r / plain, float32: +\d+\.\d+",
        ),
    ],
)
def test_benchmarks_run(script: str, options: list[str], row: str, tmp_path: Path):
    if script == "loading.py":
        options = [*options, "--root", str(write_voc(tmp_path / "voc"))]
    if script == "gpu_step.py":
        options = [*options, "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *options],
        capture_output=True,
        encoding="utf-8",
        cwd=BENCHMARKS.parent,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(row, done.stdout)


def test_the_gpu_run_asks_for_what_its_preset_has():
    """Its names are in the preset, and its steps fit the time."""
    done = subprocess.run([sys.executable, "-c", GPU], capture_output=True, encoding="utf-8", cwd=BENCHMARKS)
    assert done.returncode == 0, done.stderr


GPU = """
from pathlib import Path
import gpu_voc
from i2r.config.load import load

values = load(Path("../workflow/presets/voc-small-gpu.yaml")).values
assert values.experiment == gpu_voc.PRESET
assert {name for names in gpu_voc.TARGETS for name in names.split()} <= set(values.targets)
assert gpu_voc.affordable(0.009, 8) == 600
assert gpu_voc.affordable(1.0, 10) == gpu_voc.LIMITS[0]
"""
