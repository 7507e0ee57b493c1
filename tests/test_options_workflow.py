"""Every value of the options of networks, evaluation and CAM head, once through Snakemake on `tiny`."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from conftest import Toy
from test_options import words

from i2r.config.networks import CAMS, PRIORS, I2ROptions
from i2r.config.schema import CamHead, Evaluate

CHOICES: dict[str, list[Any]] = {
    **{
        name: found
        for name in I2ROptions.model_fields
        if name != "name" and (found := words(I2ROptions, name))
    },
    "cam": list(CAMS),
    "delta": [0.7, "adaptive", 0.0, 1.0],
    "prior": [*PRIORS, *("+".join(pair) for pair in combinations(PRIORS, 2))],
    "depth": [(2, 1), (1, 0), (1, 1), (3, 2)],  # blocks, cross
}
EVALUATIONS = {
    "scoring": words(Evaluate, "scoring"),
    "tta": words(Evaluate, "tta"),
    "mask": words(Evaluate, "mask"),
    "delta": [None, 0.5, "adaptive"],
}
TINY = {"width": 16, "reduce_dropout": 0.5}


def covering() -> dict[str, dict[str, Any]]:
    """As many methods as the option with most values has; between them they take every value of each option."""
    methods: dict[str, dict[str, Any]] = {}
    for row in range(max(map(len, (*CHOICES.values(), *EVALUATIONS.values())))):
        options, evaluate = (
            {
                name: values[(row + place) % len(values)]
                for place, (name, values) in enumerate(choices.items())
            }
            for choices in (CHOICES, EVALUATIONS)
        )
        options["blocks"], options["cross"] = options.pop("depth")
        if options["cam_layer"] not in CAMS[options["cam"]].layers:
            options["cam_layer"] = CAMS[options["cam"]].layers[0]
        if not CAMS[options["cam"]].package:
            options["cam_backend"] = "native"
        methods[f"i2r-{row}"] = {"network": options, "evaluate": evaluate}
    changed = {"trains": "all"}
    methods["bam-pmgm"] = {
        "network": {"name": "bam", "prior": "pmgm", **TINY},
        "train": {"precision": "bf16"},
    }
    methods["hsnet"] = {"network": {"name": "hsnet", "channels": [4, 4, 4]}}
    methods["from-1shot"] = {"train": {"start": "1shot"}}
    for mode in words(CamHead, "mode"):  # with a backbone that the base learner has changed, but for one
        learner = {} if mode == "pretrained" else changed
        network = {"name": "bam", **TINY} if mode == "none" else {}
        methods[f"head-{mode}"] = {"cam_head": {"mode": mode}, "base_learner": learner, "network": network}
    return methods


def test_the_methods_take_every_value():
    methods = covering().values()
    for name, values in CHOICES.items():
        if name != "depth":
            taken = [method.get("network", {}).get(name) for method in methods]
            assert all(value in taken for value in values), name
    for name, values in EVALUATIONS.items():
        taken = [method.get("evaluate", {}).get(name) for method in methods]
        assert all(value in taken for value in values), name


@pytest.mark.slow
def test_every_value_runs_from_params_through_snakemake(real: Toy):
    methods = covering()
    values = {
        "extends": "tiny.yaml",
        "experiment": "sweep",
        "base_learner": {"steps": 1},
        "train": {"steps": 1, "batch": 2},
        "evaluate": {"episodes": 2, "pictures": 1},
        "baselines": {"threshold_episodes": 2},
        "report": {"pictures": 1, "bootstrap": 2},
        "methods": methods,
        "data": {"shapes": {"train_images": 150, "val_images": 200}},
        "targets": {"table1": {"methods": list(methods), "folds": [0], "shots": [5], "baselines": "i2r"}},
        "make": ["table1"],
    }
    (real.folder / "params.yaml").write_text(json.dumps(values))  # JSON is YAML
    real.run("snakemake", "--cores", "2")
    table = (real.folder / "results/sweep/report/metrics.csv").read_text()
    for method in methods:
        assert f",{method}," in table, method
