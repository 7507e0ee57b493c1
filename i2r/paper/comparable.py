"""Whether a published number may stand beside a result, and in what the two settings differ.

Data set, backbone or image size differ: the number is not shown. Anything else: it is shown, and every difference is
named. The published setting is that of the reading whose experiment gave the number (docs/method.md 10).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from i2r.config.methods import sections_of
from i2r.config.readings import OPTIONS, says

Sections = dict[str, Any]


class Published(NamedTuple):
    """A data set with published numbers: its name, the number of images in its lists, its folds."""

    name: str
    images: dict[str, int]
    folds: str


DATA = {  # by data source
    "voc": Published("PASCAL-5i", {"train": 5953, "val": 1449}, "contiguous"),
    "coco": Published("COCO-20i", {"train": 82081, "val": 40137}, "interleaved"),
}
# of both published codes
PROTOCOL = {"data.novel": "drop", "evaluate.episodes": 1000, "backbone.precision": "fp32"}
CODES = {"i2r": "released", "bam": "bam"}  # network with published code -> its reading
DECIDING = ("data.size", "backbone.name")  # with another value the number is not shown
OF_THE_ROW = ("network.prior", "network.mask")  # which row of Table 3 it is; see published.components
CHECKPOINT = (
    "Published checkpoints are the best on the test classes of all epochs; ours are the last of the training, or with "
    "evaluate.checkpoint: best those that are best on held-out episodes of training classes."
)


RELEASED, RETRAINED, REIMPLEMENTED = "released weights", "retrained", "reimplemented"
UNDECIDING = ("base_learner.weights", "train.start", "train.validate_every", "train.validation_episodes")
UNDECIDING += ("train.checkpoints", "base_learner.seed", "cam_head.seed")
LEVELS = {  # level of a result -> what it means
    RELEASED: "weights from a file, train.weights",
    RETRAINED: "trained here as the published code trains",
    REIMPLEMENTED: "trained here with other settings than the published code's",
}


def published_data(source: str) -> Published:
    """The data set of the paper with which a data source is compared: PASCAL-5i for sources that the paper lacks."""
    return DATA.get(source, DATA["voc"])


def published_reading(network: str, reading: str) -> str:
    """The reading of the experiment that gave a published number: BAM's own for BAM, the paper's or its code's for I2R.

    Args:
        network: name of the method's network.
        reading: of the method.
    """
    if network == "bam":
        return "bam"
    return "released" if reading == "bam" else reading


def obstacles(sections: Sections, reading: str) -> list[str]:
    """What makes a method's numbers incomparable with the published one; empty if nothing does.

    The number of images is not in params; see other_images.
    """
    expected = _expected(sections, reading)
    source, found = sections["data"]["source"], []
    if source not in DATA:
        found.append("the data set is generated" if source == "shapes" else f"the data set is {source}")
    if (name := sections["backbone"]["name"]) != expected["backbone.name"]:
        found.append(f"the backbone is {name}, not {expected['backbone.name']}")
    if (size := sections["data"]["size"]) != expected["data.size"]:
        found.append(f"images have {size} pixels a side, not {expected['data.size']}")
    return found


def other_images(source: str, counts: dict[str, int]) -> list[str]:
    """Differences of the lists from the published ones, by their lengths; counts: {"train", "val"}."""
    known = published_data(source)
    return [
        f"{counts[part]} {part} images, not the {count} of {known.name}"
        for part, count in known.images.items()
        if counts[part] != count
    ]


def departures(sections: Sections, reading: str) -> list[str]:
    """Other differences from the published setting, as `key: value, not value`; empty if there are none."""
    folds = published_data(sections["data"]["source"]).folds
    expected = _expected(sections, reading) | PROTOCOL | {"data.folds": folds}
    trains = "base_learner.trains"
    if _value(sections, trains) != "all" and not sections["network"].get("ensemble", True):
        # nothing comes from the base learner, so only that it is not trained whole can be a difference
        expected = {k: v for k, v in expected.items() if k == trains or not k.startswith("base_learner.")}
    files = ("backbone.weights", "base_learner.weights", "train.weights")
    found = []
    for key, value in expected.items():
        ours = _value(sections, key)
        if key not in DECIDING + OF_THE_ROW and ours is not None and ours != value:
            found.append(f"{key}: {_shown(ours)}, not {_shown(value)}")
    return found + [f"{key}: from a file" for key in files if _value(sections, key)]


def level(sections: Sections) -> str:
    """How much of a method's result was made here, one of LEVELS.

    It is retrained if its network has published code, on a data set of the paper, and every value of its trainings is
    that of this code. Those in UNDECIDING do not count.
    """
    if sections["train"]["weights"]:
        return RELEASED
    source, network = sections["data"]["source"], sections["network"]["name"]
    if source not in DATA or network not in CODES:
        return REIMPLEMENTED
    folds = DATA[source].folds
    null = {"data.folds": folds, "base_learner.size": sections["data"]["size"]}  # what null stands for
    code = sections_of(CODES[network], network, source)
    expected = {
        f"{name}.{key}": value
        for name in ("base_learner", "cam_head", "network", "train")
        for key, value in code[name].items()
    }
    expected |= _expected(sections, CODES[network]) | PROTOCOL | {"data.folds": folds}
    for key, value in expected.items():
        own = _value(sections, key, absent=value)
        own = null.get(key) if own is None else own
        if key not in UNDECIDING and not key.startswith("evaluate.") and own != value:
            return REIMPLEMENTED
    return RETRAINED


def _expected(sections: Sections, reading: str) -> dict[str, Any]:
    """Key -> published value for the data set; on ResNet-101 that of ResNet-50 with the other depth."""
    values = says(published_reading(sections["network"]["name"], reading), sections["data"]["source"])
    expected = {option.key: values[option.key] for option in OPTIONS}
    if sections["backbone"]["name"].startswith("resnet101"):
        expected["backbone.name"] = expected["backbone.name"].replace("50", "101")
    return expected


def _value(sections: Sections, key: str, absent: Any = None) -> Any:
    value: Any = sections
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return absent
        value = value[part]
    return value


def _shown(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
