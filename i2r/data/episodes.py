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
_PAIR, _PARTNER, _PASTE, _PASTED = 7, 8, 9, 10  # 6 is that of control_episodes.py
PROTOCOLS = ("bam", "hsnet", "full", "balanced")
PAIRED = ("pairs", "balanced-pairs")  # values of train.sampling


class Pasted(NamedTuple):
    """An object that is pasted into a training query, see paste.py.

    Attributes:
        donor: id of the image that it is cut from.
        cls: its class, a training class.
        seed: of its size and place, and of the view of the image.
    """

    donor: str
    cls: int
    seed: int


class Episode(NamedTuple):
    """Ids of images, the class (1..C) to segment, and what is pasted into the query, if anything."""

    query: str
    supports: tuple[str, ...]
    cls: int
    pasted: Pasted | None = None


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
    paste: float = 0.0,
    views: int = 0,
) -> Episode:
    """Training episode number `index` of a fold (docs/method.md 8.1).

    Args:
        lists: from lists.fold_lists.
        sampling: `image`: queries follow a permutation of the training list, a new one in each epoch, and the
            class is drawn among those of the query (BAM), as `draw` of the lists says; `balanced`: the class is drawn
            among all, then the query among its images; `pairs`: episodes 2i and 2i + 1 ask query i of the permutation
            for two of its classes; where it shows one, episode 2i + 1 has a query of another permutation.
            `balanced-pairs`: the same with query and first class drawn as in `balanced`, twice where it shows one.
        reduced: the images are seen in evaluation views, so those that `vanished` of the lists names are no supports.
        paste: probability that an object of another training class is pasted into the query, which is then asked for
            either class, and in a pair for both.
        views: number of images that one query can become by pasting; 0: any number.

    Classes with no more than `shots` images have no episodes; an image that shows only such classes is skipped.

    Raises:
        InputError: no class has more than `shots` training images.
        ValueError: an unknown sampling.
    """
    vanished = lists.get("vanished", {}) if reduced else {}
    usable = _usable(lists, fold, shots, vanished)
    rng = np.random.default_rng((_TRAIN, seed, fold, index))
    number, place = divmod(index, 2) if sampling in PAIRED else (index, 0)
    query, asked = _asked(lists, usable, sampling, (seed, fold, number), rng)
    pasted = _pasted(lists, usable, query, (seed, fold, number), paste, views) if paste else None
    if pasted:
        asked = [asked[0], pasted.cls]
        place = place if sampling in PAIRED else int(rng.integers(2))
    if place == len(asked):  # the query of the pair shows one class
        if sampling == "pairs":
            query, classes = _in_turn(lists, usable, (_PARTNER, seed, fold), number)
            asked = [*asked, int(rng.choice(classes))]
        else:
            query, cls = _evenly(usable, np.random.default_rng((_PARTNER, seed, fold, number)))
            asked = [*asked, cls]
    cls = asked[place]
    # the image that the object comes from would be too easy a support for it
    other = pasted.donor if pasted and cls == pasted.cls else query
    supports, _ = _supports(rng, usable[cls], other, shots, vanished.get(str(cls), ()))
    return Episode(query, supports, cls, pasted)


def _usable(
    lists: dict[str, Any], fold: int, shots: int, vanished: dict[str, Collection[str]]
) -> dict[int, list[str]]:
    """The training classes that have enough images for an episode, and these."""
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
    return usable


def _asked(
    lists: dict[str, Any],
    usable: dict[int, list[str]],
    sampling: str,
    key: tuple[int, int, int],
    rng: np.random.Generator,
) -> tuple[str, list[int]]:
    """Query number `key[-1]`, and the classes it is asked for: one, or in a pair two if it shows two.

    Raises:
        ValueError: an unknown sampling.
    """
    *stream, number = key
    pair = np.random.default_rng((_PAIR, *key))
    if sampling == "image":
        query, classes = _in_turn(lists, usable, (_ORDER, *stream), number)
        return query, [int(rng.choice(classes))]
    if sampling == "balanced":
        query, cls = _evenly(usable, rng)
        return query, [cls]
    if sampling == "pairs":
        query, classes = _in_turn(lists, usable, (_ORDER, *stream), number)
        return query, [int(cls) for cls in pair.permutation(classes)[:2]]
    if sampling == "balanced-pairs":
        query, cls = _evenly(usable, pair)
        others = [other for other in lists["train_of"][query] if other in usable and other != cls]
        return query, [cls, *(int(other) for other in pair.permutation(others)[:1])]
    raise ValueError(f"train.sampling must be image, balanced, pairs or balanced-pairs, got {sampling!r}")


def _evenly(usable: dict[int, list[str]], rng: np.random.Generator) -> tuple[str, int]:
    """A class, each equally often, and an image of it."""
    cls = int(rng.choice(list(usable)))
    return usable[cls][rng.integers(len(usable[cls]))], cls


def _in_turn(
    lists: dict[str, Any], usable: Collection[int], key: tuple[int, ...], number: int
) -> tuple[str, list[int]]:
    """Query `number` of the permutations of the training list under `key`, and its usable classes.

    A query without any is passed over.
    """
    names = lists["train"]
    epoch, position = divmod(number, len(names))
    order = np.random.default_rng((*key, epoch)).permutation(len(names))
    for place in np.roll(order, -position):
        query = names[place]
        if classes := [cls for cls in lists["train_of"][query] if cls in usable]:
            break
    return query, classes


def _pasted(
    lists: dict[str, Any],
    usable: dict[int, list[str]],
    query: str,
    key: tuple[int, int, int],
    probability: float,
    views: int,
) -> Pasted | None:
    """With this probability, an object of a usable class that the query does not show; None if it shows all.

    With `views`, the object depends on the query and one of so many numbers, so that the same images come again.
    """
    rng = np.random.default_rng((_PASTE, *key))
    others = [cls for cls in usable if query not in usable[cls] and cls not in lists["train_of"][query]]
    if rng.random() >= probability or not others:
        return None
    if views:
        number = int(rng.integers(views))
        rng = np.random.default_rng((_PASTED, *key[:2], lists["train"].index(query), number))
    cls = int(rng.choice(others))
    return Pasted(usable[cls][rng.integers(len(usable[cls]))], cls, int(rng.integers(2**31)))


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
