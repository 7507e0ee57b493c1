"""How much work a job is, and which jobs are alike in how long their work takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from i2r.config.data_set import OFFICIAL
from i2r.data.counts import AREA, published
from i2r.files import canonical, digest_of
from i2r.pipeline.spec import Input, Spec

Lookup = Callable[[Input], Spec | None]  # the job that makes an input, if it is known

# Arguments that choose images and random numbers, but not how many.
CHOICES = ("fold", "seed", "eval_seed")
# Params on which the time for one unit of work depends most, and `shot`; jobs with the same ones can be scaled.
ALIKE = (
    *(
        "threads",
        "data.size",
        "backbone.name",
        "backbone.stride_at",
        "base_learner.size",
        "base_learner.trains",
    ),
    *("cam_head.mode", "network.name", "network.width", "network.blocks", "network.cross"),
    *("network.support_branch", "train.precision", "train.augment.views", "evaluate.tta"),
    "evaluate.checkpoint",
)
# Steps whose time grows with a number of images or episodes.
SCHEDULED = {
    "backbone": "backbone.pretrain",
    "base_learner": "base_learner",
    "cam_head": "cam_head",
    "train": "train",
}


def value(params: Mapping[str, Any], name: str) -> Any:
    """A value by its dotted name; None if a section or the value is missing."""
    found: Any = params
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def signature(spec: Spec, of: Callable[[Input], str]) -> str:
    """The same for jobs that differ only in fold and seeds, those behind their inputs included.

    Args:
        of: the signature of an input's job.
    """
    args = {name: at for name, at in spec.args.items() if name not in CHOICES}
    inputs = {role: of(given) for role, given in spec.inputs.items()}
    return digest_of(canonical([spec.step, spec.version, args, spec.params, inputs]))


def likeness(spec: Spec) -> tuple:
    """The same for jobs whose time grows alike with their units of work."""
    return (spec.step, spec.args.get("shot"), *(repr(value(spec.params, name)) for name in ALIKE))


def units(spec: Spec, lookup: Lookup, images: Callable[[Spec], int | None]) -> float | None:
    """Images or episodes that a job learns from or is scored on, or jobs that it reports; None: not known.

    Args:
        images: number of training images of a job of step lists, if it is known.
    """
    if spec.step in ("report", "track"):
        return len(spec.inputs)
    if spec.step in SCHEDULED:
        return _scheduled(value(spec.params, SCHEDULED[spec.step]), spec, lookup, images)
    if spec.step == "controls":
        return value(spec.params, "evaluate.controls")
    if spec.step in ("evaluate", "baselines"):
        episodes = lookup(spec.inputs["episodes"])
        if episodes is None or value(episodes.params, "evaluate.protocol") == "full":
            return None
        return value(episodes.params, "evaluate.episodes")
    return None


def _scheduled(
    schedule: Mapping[str, Any] | None, spec: Spec, lookup: Lookup, images: Callable[[Spec], int | None]
) -> float | None:
    """Images or episodes of a training."""
    if not schedule or schedule.get("weights"):
        return None
    if isinstance(schedule["steps"], int):
        return schedule["steps"] * schedule["batch"]
    lists = lookup(spec.inputs["lists"]) if "lists" in spec.inputs else None
    # only the meta learner's epochs are sure to be passes over the fold's own list
    count = images(lists) if lists is not None and spec.step == "train" else None
    return None if count is None else int(schedule["steps"].split()[0]) * count


def published_images(lists: Spec, lookup: Lookup) -> int | None:
    """Training images of a fold of the official data, by BAM's lists; None for other data or rules."""
    data, rule = lookup(lists.inputs["data"]), lists.params["data"]
    if data is None or "fetched" not in data.inputs or rule["novel"] != "drop" or rule["min_area"] != AREA:
        return None
    source = data.params["data"]["source"]
    known = published(source) if source in OFFICIAL else None
    return None if known is None else known["train_list"][lists.args["fold"]]
