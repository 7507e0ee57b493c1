"""Control episodes: a test episode with other supports, which show whether a network uses the support at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from i2r.data.episodes import Episode

_CONTROL = 6  # first entry of the random streams' keys, see episodes.py

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


def controls(
    episode: Episode, index: int, pixels: Mapping[str, Mapping[str, int]], seed: int, min_area: int
) -> list[Control]:
    """The controls of test episode number `index`, without those that its query does not allow.

    Args:
        pixels: id -> class -> its pixels, of all images that test or are supports.
        seed: the evaluation seed.
        min_area: pixels that an image must have to show a class.
    """
    shots, found = len(episode.supports), []

    def others(kind: int, candidates: list[int]) -> Episode | None:
        """An episode of the first candidate, in random order, that has enough images."""
        rng = np.random.default_rng((_CONTROL, kind, seed, index))
        for cls in rng.permutation(sorted(candidates)):
            images = [
                name
                for name, own in pixels.items()
                if own.get(str(cls), 0) >= min_area and name != episode.query
            ]
            if len(images) >= shots:
                chosen = rng.choice(len(images), shots, replace=False)
                return Episode(episode.query, tuple(images[at] for at in chosen), int(cls))
        return None

    shown = {int(cls): number for cls, number in pixels[episode.query].items()}
    large = [cls for cls, number in shown.items() if cls != episode.cls and number >= min_area]
    absent = {int(cls) for own in pixels.values() for cls in own} - set(shown) - {episode.cls}
    made = {
        "right": episode,
        "present": others(0, large),
        "absent": others(1, list(absent)),
        "itself": episode._replace(supports=(episode.query,) * shots),
        "shuffled": episode,
        "table": episode,
    }
    for kind, one in made.items():
        if one is not None:
            found.append(Control(kind, index, episode.cls, one))
    return found
