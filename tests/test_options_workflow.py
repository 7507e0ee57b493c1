"""Every value of the options of methods, evaluation and CAM head, once through Snakemake on `tiny`."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from conftest import Toy
from test_options import METHOD, words

from i2r.config import schema as params
from i2r.config.schema import GRAD_CAM
from i2r.nets.pmgm.priors import PRIORS

CHOICES: dict[str, list[Any]] = {
    **{name: found for name in METHOD if name != "network" and (found := words(params.Method, name))},
    "delta": [0.7, "adaptive", 0.0, 1.0],
    "prior": [*PRIORS, *("+".join(pair) for pair in combinations(PRIORS, 2))],
    "depth": [(2, 1), (1, 0), (1, 1), (3, 2)],  # blocks, cross
}


def covering() -> dict[str, dict[str, Any]]:
    """As many methods as the option with most values has; between them they take every value of each option."""
    methods = {}
    for row in range(max(map(len, CHOICES.values()))):
        options = {
            name: values[(row + place) % len(values)] for place, (name, values) in enumerate(CHOICES.items())
        }
        options["blocks"], options["cross"] = options.pop("depth")
        if options["cam"] == "cam":
            options["cam_layer"] = "layer4"
        if options["cam"] not in GRAD_CAM:
            options["cam_backend"] = "native"
        methods[f"i2r-{row}"] = options
    methods["bam-pmgm"] = {"network": "bam", "prior": "pmgm", "train": {"precision": "bf16"}}
    methods["from-1shot"] = {"start": "1shot"}
    return methods


def test_the_methods_take_every_value():
    methods = covering().values()
    for name, values in CHOICES.items():
        if name != "depth":
            assert set(values) <= {method[name] for method in methods if name in method}, name


@pytest.mark.slow
def test_every_value_runs_from_params_through_snakemake(real: Toy):
    methods = covering()
    quick = {"steps": 1, "batch": 2}
    real.change(
        run={"folds": [0], "shots": [2], "methods": list(methods)},
        data={"min_class_images": 3},
        base_learner={"steps": 1},
        train=quick,
        evaluate={"episodes": 2},
        baselines={"threshold_episodes": 2},
        ablate={"methods": []},
        report={"pictures": 1, "bootstrap": 2},
    )
    values = params.read(real.folder / "params.yaml")
    values["methods"] = methods
    write(real, values)
    real.run("snakemake", "--cores", "2")
    table = (real.folder / "results/tiny/metrics.csv").read_text()
    for method in methods:
        assert f",{method}," in table, method

    # what belongs to the experiment as a whole: BAM by itself, every grid to score on, every augmentation
    values["run"]["methods"], values["methods"] = ["bam"], {"bam": {"network": "bam", "prior": "bam"}}
    values["base_learner"]["trains"] = "all"
    grids, passes = words(params.Evaluate, "scoring"), words(params.Evaluate, "tta")
    for row, scoring in enumerate(grids):
        values["cam_head"]["mode"] = "none" if row else "retrained"
        values["evaluate"] |= {"scoring": scoring, "tta": passes[row % len(passes)]}
        write(real, values)
        real.run("snakemake", "evaluate", "--cores", "2")
    real.run("snakemake", "--cores", "2")
    table = (real.folder / "results/tiny/metrics.csv").read_text()
    assert ",bam," in table and "pmgm" not in table


def write(project: Toy, values: dict[str, Any]) -> None:
    (project.folder / "params.yaml").write_text(json.dumps(values))  # JSON is YAML
