"""Readings: the values of the paper, its released code and BAM's code for the options in which they differ.

A value of params may be `reading`; `settle` replaces it by the value of the method's reading (docs/method.md 10). Where
a source has different values for PASCAL-5i and COCO-20i, those of PASCAL-5i stand in OPTIONS and the others in COCO.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from i2r.config.base import WORD

READINGS = ("paper", "released", "bam")
# Where a reading has no value, the first of these that has one is used: the paper builds on BAM, and BAM lacks the
# paper's options.
FALLBACK = {"paper": ("bam", "released"), "released": ("paper",), "bam": ("paper", "released")}

BRACKETS = (
    "In brackets: the source does not say; BAM's value is used for the paper, the paper's for the others, and the "
    "released code's where neither says."
)


class Option(NamedTuple):
    """A key of params, its value in each reading (None: the source does not say), and where it is found."""

    key: str
    paper: Any
    released: Any
    bam: Any
    where: str


OPTIONS = (
    Option("data.size", 473, 473, 473, "paper 4.1: 472, but the 900 cells of Table 5 need 473; both configs"),
    Option("data.draw", "present", "present", "present", "loaders of both codes: any class with a pixel"),
    Option("backbone.name", "resnet50", "resnet50", "resnet50-bam", "paper 4.1; models of both codes"),
    Option(
        "base_learner.trains", "head", "all", "all", "paper 3.2: ImageNet's weights, fixed; both pretrainings"
    ),
    Option("base_learner.list", None, "all", "all", "both pretrainings: the whole master lists"),
    Option("base_learner.size", None, 473, 417, "both pretrainings; in BAM for its validation, too"),
    Option("base_learner.optimiser", None, "adamw", "sgd", "both pretrainings (released: schedule-free)"),
    Option("base_learner.warmup", None, 0.1, 0.0, "both pretrainings"),
    Option(
        "base_learner.steps", None, "100 epochs", "100 epochs", "both pretrainings (released: half of 200)"
    ),
    Option("base_learner.batch", None, 64, 12, "both pretrainings"),
    Option("base_learner.lr", None, 0.0025, 0.0025, "both pretrainings: pyramid and classifier"),
    Option("base_learner.backbone_rate", None, 0.1, 0.1, "both pretrainings: backbone 2.5e-4"),
    Option("base_learner.validate_every", None, 1, 1, "both pretrainings"),
    Option(
        "base_learner.checkpoint", None, "best", "best", "both pretrainings: best mIoU of the base classes"
    ),
    Option("base_learner.patience", None, 0, 75, "BAM: stops when 75 epochs brought nothing better"),
    Option("base_learner.augment.scale", None, [1.0, 1.0], [0.5, 2.0], "both pretrainings"),
    Option(
        "base_learner.augment.rotate_p", None, 0.0, 0.5, "both pretrainings (released: only the random crop)"
    ),
    Option("base_learner.augment.blur_p", None, 0.0, 0.5, "both pretrainings"),
    Option("base_learner.augment.flip_p", None, 0.0, 0.5, "both pretrainings"),
    Option(
        "cam_head.mode", "pretrained", "retrained", "none", "paper 3.2; released pretraining; BAM has none"
    ),
    Option(
        "cam_head.list", None, "all", None, "released pretraining: the base learner's images, the whole list"
    ),
    Option("network.prior", "pmgm", "pmgm", "bam", "paper eq. 7 to 9; BAM: largest cosine"),
    Option("network.delta_compare", ">=", ">", None, "paper eq. 2; released model"),
    Option("network.class_source", "episode", "episode", None, "paper eq. 1; released: each shot its own"),
    Option("network.mask", "dicm", "transposed", None, "Algorithm 1; released: query and support exchanged"),
    Option("network.blocks", 5, 6, None, "paper Table S1; released config"),
    Option("network.cross", 4, 5, None, "paper Table S1; released config"),
    Option("network.ensemble", None, True, True, "configs (released: off for COCO)"),
    Option("network.shot_weights", "mean", "gram", "gram", "paper 3.1; both models"),
    Option("network.shot_cam", "all", "last", None, "paper 3.1; released: the last value of its loop"),
    Option("network.embedding", False, True, None, "released model only"),
    Option("network.detach_merge_input", False, True, None, "released model only"),
    Option(
        "network.ignore", None, "background", "255", "released: 255 becomes 0 before the losses; BAM's losses"
    ),
    Option("train.steps", None, "300 epochs", "200 epochs", "configs"),
    Option("train.batch", 8, 8, 8, "paper 4.1; configs"),
    Option("train.lr", 0.01, 0.05, 0.05, "paper 4.1; configs (BAM: 0.005, multiplied by 10 in its code)"),
    Option("train.augment.scale", [0.9, 1.1], [0.9, 1.1], [0.9, 1.1], "configs"),
    Option("train.precision", None, "bf16", "fp32", "trainers"),
    Option("evaluate.scoring", None, "released", "bam", "validation of both codes"),
    Option("evaluate.tta", "none", "released", "none", "paper: not named; released validation"),
)

# Values for COCO-20i (data.source: coco) where a source has others than for PASCAL-5i: key -> reading -> value
COCO: dict[str, dict[str, Any]] = {
    "data.size": {"paper": None, "released": 641, "bam": 641},
    "base_learner.steps": {"bam": "20 epochs"},
    "base_learner.backbone_rate": {"bam": 1.0},  # 2.5e-3 for all
    "network.ensemble": {"released": False},
    "train.steps": {"released": "60 epochs", "bam": "50 epochs"},
    "train.batch": {"released": 24},
    "train.augment.scale": {"paper": [0.8, 1.25], "released": [0.8, 1.25], "bam": [0.8, 1.25]},
}


def says(reading: str, source: str | None = None) -> dict[str, Any]:
    """Key -> value of every option under a reading.

    Args:
        source: the data source; COCO has values of its own.

    Raises:
        ValueError: an unknown reading.
    """
    if reading not in READINGS:
        raise ValueError(f"reading: must be {', '.join(READINGS[:-1])} or {READINGS[-1]}, got {reading!r}")
    special = COCO if source in ("coco", "coco-crowds") else {}

    def value(option: Option, name: str) -> Any:
        return special.get(option.key, {}).get(name, getattr(option, name))

    found = {}
    for option in OPTIONS:
        values = (value(option, name) for name in (reading, *FALLBACK[reading]))
        found[option.key] = next((given for given in values if given is not None), None)
    return found


def settle(sections: dict[str, Any], reading: str) -> dict[str, Any]:
    """The sections, with each `reading` among their values replaced by the value of the reading.

    Raises:
        ValueError: an unknown reading, or `reading` as the value of a key that no reading covers.
    """
    said = says(reading, sections.get("data", {}).get("source"))

    def settled(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: settled(part, f"{key}.{name}" if key else name) for name, part in value.items()}
        if value != WORD:
            return value
        if key not in said:
            raise ValueError(
                f"{key}: no reading has a value for it; `i2r readings` lists the keys that have one"
            )
        return said[key]

    return settled(sections, "")
