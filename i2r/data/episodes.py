"""Episodes: a query, its supports and their class. Each depends only on a seed and its number, not on any state."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from i2r.errors import InputError
from i2r.files import read_json, write_json

# First entry of the key of each random stream, which makes the streams different
_TRAIN, _ORDER, _TEST, _HSNET, _BALANCED = 1, 2, 3, 4, 5
PROTOCOLS = ("bam", "hsnet", "full", "balanced")


class Episode(NamedTuple):
    """Ids of images and the class (1..C) to segment."""

    query: str
    supports: tuple[str, ...]
    cls: int


class EpisodeList(NamedTuple):
    """The test episodes of a fold.

    Attributes:
        classes: test classes that are scored.
        excluded: the other test classes, each {"class", "name", "images"}.
        protocol: how the lists were made and the classes drawn, see lists.fold_lists.
        passed_over: number of supports that were drawn but have nothing of the class left at the network's side, so
            that others were drawn in their place.
    """

    fold: int
    classes: list[int]
    excluded: list[dict[str, Any]]
    episodes: list[Episode]
    protocol: dict[str, Any]
    passed_over: int = 0


def _supports(
    rng: np.random.Generator, images: list[str], query: str, shots: int, vanished: Collection[str] = ()
) -> tuple[tuple[str, ...], int]:
    """`shots` different images of the class, without the query and those in `vanished`, and how many it passed over.

    Where none of `vanished` is drawn, the supports are those that would be drawn without it.
    """
    others = [name for name in images if name != query]
    kept = [others[i] for i in rng.choice(len(others), shots, replace=False)]
    kept = [name for name in kept if name not in vanished]
    if missing := shots - len(kept):
        rest = [name for name in others if name not in vanished and name not in kept]
        kept += [rest[i] for i in rng.choice(len(rest), missing, replace=False)]
    return tuple(kept), missing


def train_episode(
    lists: dict[str, Any],
    seed: int,
    fold: int,
    index: int,
    shots: int,
    sampling: str = "image",
    reduced: bool = False,
) -> Episode:
    """Training episode number `index` of a fold (docs/method.md 8.1).

    Args:
        lists: from lists.fold_lists.
        sampling: `image`: queries follow a permutation of the training list, a new one in each epoch, and the
            class is drawn among those of the query (BAM), as `draw` of the lists says; `balanced`: the class is drawn
            among all, then the query among its images.
        reduced: the images are seen in evaluation views, so those that `vanished` of the lists names are no supports.

    Classes with no more than `shots` images have no episodes; an image that shows only such classes is skipped.

    Raises:
        InputError: no class has more than `shots` training images.
        ValueError: an unknown sampling.
    """
    vanished = lists.get("vanished", {}) if reduced else {}
    usable = {
        int(cls): images
        for cls, images in lists["train_by_class"].items()
        if len(images) - len(vanished.get(cls, ())) > shots
    }
    if not usable:
        raise InputError(
            f"fold {fold}: no training class has more than {shots} images; episodes with {shots} shots need "
            f"{shots + 1}"
        )
    rng = np.random.default_rng((_TRAIN, seed, fold, index))
    if sampling == "balanced":
        cls = int(rng.choice(list(usable)))
        query = usable[cls][rng.integers(len(usable[cls]))]
    elif sampling == "image":
        names = lists["train"]
        epoch, position = divmod(index, len(names))
        order = np.random.default_rng((_ORDER, seed, fold, epoch)).permutation(len(names))
        for place in np.roll(order, -position):
            query = names[place]
            if classes := [cls for cls in lists["train_of"][query] if cls in usable]:
                break
        cls = int(rng.choice(classes))
    else:
        raise ValueError(f"train.sampling must be image or balanced, got {sampling!r}")
    supports, _ = _supports(rng, usable[cls], query, shots, vanished.get(str(cls), ()))
    return Episode(query, supports, cls)


def evaluation_episodes(
    lists: dict[str, Any],
    seed: int,
    episodes: int,
    shots: int,
    min_class_images: int = 1,
    protocol: str = "bam",
) -> EpisodeList:
    """The fixed test episodes of a fold (docs/method.md 8.2); none if no class is scored.

    A class with fewer test images than `min_class_images`, or fewer than K shots and a query need, is not scored; those
    that `vanished` of the lists names (see vanished.py) do not count, and are no supports. The first n episodes do not
    depend on the number of episodes.

    Args:
        protocol: `bam`: queries follow the test list in order, repeatedly if needed; the class is drawn among the
            query's scored classes (as `draw` of the lists says). `full`: the same, each query once, whatever
            `episodes`. `hsnet`: the class is drawn among all, then the query among its images. `balanced`: each class
            in turn, with its images in an order drawn once. Supports are always drawn among the images of the class.

    Raises:
        ValueError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"evaluate.protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    least, names, by_class = max(min_class_images, shots + 1), lists["names"], lists["test_by_class"]
    vanished = lists.get("vanished", {})
    usable = {cls: len(by_class[str(cls)]) - len(vanished.get(str(cls), ())) for cls in lists["test_classes"]}
    scored = [cls for cls in lists["test_classes"] if usable[cls] >= least]
    excluded = [
        {"class": cls, "name": names[cls - 1], "images": usable[cls]}
        for cls in lists["test_classes"]
        if cls not in scored
    ]
    classes_of = {
        name: [cls for cls in classes if cls in scored] for name, classes in lists["test_of"].items()
    }
    queries = [name for name in lists["test"] if classes_of[name]]
    if protocol == "full":
        episodes = len(queries)
    drawn, passed_over = [], 0
    for index in range(episodes if queries else 0):
        if protocol == "hsnet":
            rng = np.random.default_rng((_HSNET, seed, index))
            cls = int(rng.choice(scored))
            query = by_class[str(cls)][rng.integers(len(by_class[str(cls)]))]
        elif protocol == "balanced":
            rng = np.random.default_rng((_BALANCED, seed, index))
            turn, place = divmod(index, len(scored))
            cls = scored[place]
            query = _permuted(by_class[str(cls)], (_BALANCED, seed, cls, 0))[turn % len(by_class[str(cls)])]
        else:
            rng = np.random.default_rng((_TEST, seed, index))
            query = queries[index % len(queries)]
            cls = int(rng.choice(classes_of[query]))
        supports, passed = _supports(rng, by_class[str(cls)], query, shots, vanished.get(str(cls), ()))
        drawn.append(Episode(query, supports, cls))
        passed_over += passed
    how = lists["protocol"] | ({} if protocol == "bam" else {"episodes": protocol})
    return EpisodeList(lists["fold"], scored, excluded, drawn, how, passed_over)


def _permuted(images: list[str], key: tuple[int, ...]) -> list[str]:
    return [images[i] for i in np.random.default_rng(key).permutation(len(images))]


def expected_queries(
    lists: dict[str, Any], episodes: int, shots: int = 1, min_class_images: int = 1, protocol: str = "bam"
) -> dict[int, float]:
    """Class -> number of its episodes that `evaluation_episodes` draws in expectation over seeds."""
    made = evaluation_episodes(lists, 0, 0, shots, min_class_images, protocol)
    expected = dict.fromkeys(made.classes, 0.0)
    if protocol in ("hsnet", "balanced"):
        return {cls: episodes / len(expected) for cls in expected}
    of = {name: [cls for cls in found if cls in expected] for name, found in lists["test_of"].items()}
    queries = [name for name in lists["test"] if of[name]]
    for index in range(len(queries) if protocol == "full" else episodes if queries else 0):
        classes = of[queries[index % len(queries)]]
        for cls in classes:
            expected[cls] += 1 / len(classes)
    return expected


def threshold_episodes(lists: dict[str, Any], seed: int, episodes: int, shots: int) -> list[Episode]:
    """Class-balanced episodes of training classes and images, for choices that must not use test data."""
    fold = lists["fold"]
    return [
        train_episode(lists, seed, fold, index, shots, "balanced", reduced=True) for index in range(episodes)
    ]


def save_episodes(path: Path, made: EpisodeList, **more: Any) -> None:
    """Write {"fold", "classes", "excluded", "protocol", "episodes": [{"query", "supports", "class"}], ...more}, and
    "passed_over" if there are any."""
    rows = [{"query": e.query, "supports": list(e.supports), "class": e.cls} for e in made.episodes]
    values = {**more, **made._asdict(), "episodes": rows}
    if not made.passed_over:
        del values["passed_over"]
    write_json(path, values)


def load_episodes(path: Path) -> EpisodeList:
    """Read a file that save_episodes wrote."""
    read = read_json(path)
    rows = [Episode(row["query"], tuple(row["supports"]), row["class"]) for row in read["episodes"]]
    passed_over = read.get("passed_over", 0)
    return EpisodeList(read["fold"], read["classes"], read["excluded"], rows, read["protocol"], passed_over)


def describe_excluded(made: EpisodeList) -> str:
    """A sentence that names the excluded test classes or says why the fold has no score; empty if all are scored."""
    if not made.excluded:
        return ""
    named = ", ".join(f"{item['name']} ({item['images']})" for item in made.excluded)
    if made.classes:
        return f"fold {made.fold}: left out for too few test images: {named}"
    return f"fold {made.fold} has no test class with enough test images: {named}"
