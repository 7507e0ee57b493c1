"""Control episodes: a test episode with other supports, which show whether a network uses the support at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from i2r.data.episodes import Episode

_CONTROL = 6  # first entry of the random streams' keys, see episodes.py
_PRESENT, _ABSENT = 0, 1  # second entry

# kind of control: what stands in the supports' place
KINDS = {
    "right": "the episode's own supports",
    "present": "supports of another class that is in the query",
    "absent": "supports of a class that is not in the query",
    "itself": "the query as its own support",
    "shuffled": "the own supports, their masks shuffled among the pixels",
    "table": "the own supports, the class of the CAM read right (class_source: table)",
}


class Control(NamedTuple):
    """An episode whose class is that of its supports.

    Attributes:
        asked: the class of the test episode.
    """

    kind: str
    index: int
    asked: int
    episode: Episode


class ImagesByClass(NamedTuple):
    """The images that test a fold or can be its supports.

    Attributes:
        pixels: id -> class -> its pixels.
        by_class: class -> the images that have enough pixels of it to show it.
        least: pixels that are enough.
    """

    pixels: Mapping[str, Mapping[str, int]]
    by_class: dict[int, list[str]]
    least: int


def images_by_class(pixels: Mapping[str, Mapping[str, int]], least: int) -> ImagesByClass:
    """Images by the classes that they show, with at least `least` pixels."""
    by_class: dict[int, list[str]] = defaultdict(list)
    for name, own in pixels.items():
        for cls, number in own.items():
            if number >= least:
                by_class[int(cls)].append(name)
    return ImagesByClass(pixels, dict(by_class), least)


def controls(episode: Episode, index: int, images: ImagesByClass, seed: int) -> list[Control]:
    """The controls of test episode number `index`, without those that its query does not allow.

    Args:
        images: from `images_by_class`.
        seed: the evaluation seed.
    """
    shots = len(episode.supports)
    query = {int(cls): number for cls, number in images.pixels[episode.query].items()}
    shown = [cls for cls in query if cls != episode.cls and query[cls] >= images.least]
    absent = [cls for cls in images.by_class if cls not in query and cls != episode.cls]
    made = {
        "right": episode,
        "present": _of_another(episode, shown, images, (_PRESENT, seed, index)),
        "absent": _of_another(episode, absent, images, (_ABSENT, seed, index)),
        "itself": episode._replace(supports=(episode.query,) * shots),
        "shuffled": episode,
        "table": episode,
    }
    return [Control(kind, index, episode.cls, one) for kind, one in made.items() if one is not None]


def _of_another(
    episode: Episode, classes: list[int], images: ImagesByClass, key: tuple[int, ...]
) -> Episode | None:
    """The episode with supports of the first of these classes, in random order, that has enough images."""
    rng = np.random.default_rng((_CONTROL, *key))
    for cls in rng.permutation(sorted(classes)):
        others = [name for name in images.by_class[int(cls)] if name != episode.query]
        if len(others) >= len(episode.supports):
            chosen = rng.choice(len(others), len(episode.supports), replace=False)
            return Episode(episode.query, tuple(others[at] for at in chosen), int(cls))
    return None
