"""Readings: what the paper, its released code and BAM's code say of the options in which they differ.

Data, and the one place that looks at it: params may hold the word `reading` for what the reading of the experiment
says (docs/method.md 10). Values that differ between PASCAL-5i and COCO-20i are those of PASCAL-5i.
"""

from __future__ import annotations

from typing import Any, NamedTuple

WORD = "reading"
READINGS = ("paper", "released", "bam")
# Whose value stands where a reading says nothing: the paper builds on BAM, and what BAM lacks is the paper's.
FALLBACK = {"paper": "bam", "released": "paper", "bam": "paper"}


class Option(NamedTuple):
    """A key of params, its value in each reading (None: says nothing of it), and where that stands."""

    key: str
    paper: Any
    released: Any
    bam: Any
    where: str


OPTIONS = (
    Option("data.size", 473, 473, 473, "paper 4.1: 472, but the 900 cells of Table 5 need 473; both configs"),
    Option("backbone.name", "resnet50", "resnet50", "resnet50-bam", "paper 4.1; models of both codes"),
    Option(
        "base_learner.trains", "head", "all", "all", "paper 3.2: ImageNet's weights fixed; both pretrainings"
    ),
    Option("base_learner.optimiser", None, "adamw", "sgd", "both pretrainings (released: schedule-free)"),
    Option("base_learner.warmup", None, 0.1, 0.0, "both pretrainings"),
    Option(
        "base_learner.steps", None, "100 epochs", "100 epochs", "both pretrainings (released: half of 200)"
    ),
    Option("base_learner.batch", None, 64, 12, "both pretrainings"),
    Option("base_learner.lr", None, 0.00025, 0.0025, "both pretrainings (BAM: the backbone's times 10)"),
    Option(
        "cam_head.mode",
        "pretrained",
        "retrained",
        "retrained",
        "paper 3.2; released pretraining; BAM has none",
    ),
    Option("method.network", "i2r", "i2r", "bam", "paper 3; BAM"),
    Option("method.prior", "pmgm", "pmgm", "bam", "paper eq. 7 to 9; BAM: largest cosine"),
    Option("method.delta_compare", ">=", ">", None, "paper eq. 2; released model"),
    Option("method.class_source", "episode", "episode", None, "paper eq. 1; released: each shot its own"),
    Option(
        "method.mask", "dicm", "transposed", None, "paper Algorithm 1; released: query and support exchanged"
    ),
    Option("method.blocks", 5, 6, None, "paper Table S1; released config"),
    Option("method.cross", 4, 5, None, "paper Table S1; released config"),
    Option("method.ensemble", None, True, True, "configs (released: off for COCO)"),
    Option("method.shot_weights", "mean", "gram", "gram", "paper 3.1; both models"),
    Option("method.shot_cam", "all", "last", None, "paper 3.1; released: what its loop leaves"),
    Option("method.embedding", False, True, None, "released model alone"),
    Option("method.detach_merge_input", False, True, None, "released model alone"),
    Option(
        "method.ignore", None, "background", "255", "released: 255 becomes 0 before the losses; BAM's losses"
    ),
    Option("train.steps", None, "300 epochs", "200 epochs", "configs"),
    Option("train.batch", 8, 8, 8, "paper 4.1; configs"),
    Option("train.lr", 0.01, 0.05, 0.05, "paper 4.1; configs (BAM: 0.005 there, times 10 in effect)"),
    Option("train.precision", None, "bf16", "fp32", "trainers"),
    Option("evaluate.scoring", None, "released", "bam", "validation of both codes"),
    Option("evaluate.tta", "none", "released", "none", "paper: not named; released validation"),
)


def says(reading: str) -> dict[str, Any]:
    """Key -> value of a reading.

    Raises:
        ValueError: for an unknown reading.
    """
    if reading not in READINGS:
        raise ValueError(f"reading: must be {', '.join(READINGS[:-1])} or {READINGS[-1]}, got {reading!r}")
    own = {option.key: getattr(option, reading) for option in OPTIONS}
    other = {option.key: getattr(option, FALLBACK[reading]) for option in OPTIONS}
    return {key: other[key] if value is None else value for key, value in own.items()}


def settle(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a params file with what its reading says in place of the word.

    A method with a `reading` of its own takes from that what `method` leaves to the word.

    Raises:
        ValueError: for an unknown or missing reading, and naming a key of which no reading says anything.
    """
    reading = values.get("reading")
    said = says(reading)
    common, methods = values.get("method"), values.get("methods")
    if isinstance(common, dict) and isinstance(methods, dict):
        words = {name: WORD for name, value in common.items() if value == WORD}
        values = values | {"methods": {name: _of_method(own, words, said) for name, own in methods.items()}}
    return {name: _put(value, said, name) for name, value in values.items()}


def _of_method(own: Any, words: dict[str, str], said: dict[str, Any]) -> Any:
    if not isinstance(own, dict):
        return own
    if "reading" in own:
        said = says(own["reading"])
        own = words | {name: value for name, value in own.items() if name != "reading"}
    return _put(own, said, "method")


def _put(value: Any, said: dict[str, Any], key: str) -> Any:
    if isinstance(value, dict):
        return {name: _put(part, said, f"{key}.{name}") for name, part in value.items()}
    if value != WORD:
        return value
    if key not in said:
        raise ValueError(f"{key}: no reading says anything of it; `i2r readings` prints what they cover")
    return said[key]
