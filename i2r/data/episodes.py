"""Episodes: a query, its supports and their class. Each depends on a seed and its number alone, on no state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from i2r.data.lists import describe_excluded
from i2r.files import read_json, write_json

if TYPE_CHECKING:
    from i2r.pipeline.jobs import Job

# First word of the key of each random stream, so that no two are the same
_TRAIN, _ORDER, _TEST = 1, 2, 3


class Episode(NamedTuple):
    """Ids of images and the class (1..C) to segment."""

    query: str
    supports: tuple[str, ...]
    cls: int


def _supports(rng: np.random.Generator, images: list[str], query: str, shots: int) -> tuple[str, ...]:
    """`shots` different images of the class, none of them the query."""
    others = [name for name in images if name != query]
    return tuple(others[i] for i in rng.choice(len(others), shots, replace=False))


def train_episode(
    lists: dict[str, Any], seed: int, fold: int, index: int, shots: int, sampling: str = "image"
) -> Episode:
    """Training episode number `index` of a fold (docs/method.md 8.1).

    Args:
        lists: of lists.fold_lists.
        sampling: `image`: queries pass through a permutation of the training list, another in each epoch, the
            class is drawn among those of the query (BAM); `balanced`: the class is drawn among all, then the
            query among its images.

    Classes with no more than `shots` images have no episodes; an image with such classes only passes its turn to
    the next.

    Raises:
        ValueError: no class has more than `shots` training images, or an unknown sampling.
    """
    by_class = lists["train_by_class"]
    usable = {int(cls): images for cls, images in by_class.items() if len(images) > shots}
    if not usable:
        raise ValueError(
            f"fold {fold}: no training class has more than {shots} images, {shots} shots need one more"
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
    return Episode(query, _supports(rng, usable[cls], query, shots), cls)


def test_episodes(lists: dict[str, Any], seed: int, episodes: int, shots: int) -> list[Episode]:
    """The frozen test episodes of a fold (docs/method.md 8.2); none if no class is scored.

    Queries pass through the test list in order, as often as needed; the class is drawn among the query's test
    classes, the supports among the class's images. The first n episodes are the same for every n.

    Raises:
        ValueError: a scored class has too few images for that many shots.
    """
    for cls, images in lists["test_by_class"].items():
        if len(images) <= shots:
            raise ValueError(
                f"class {cls} has {len(images)} test images, {shots} shots need {shots + 1}: "
                f"data.min_class_images must be at least that"
            )
    drawn = []
    for index in range(episodes if lists["test"] else 0):
        rng = np.random.default_rng((_TEST, seed, index))
        query = lists["test"][index % len(lists["test"])]
        cls = int(rng.choice(lists["test_of"][query]))
        drawn.append(Episode(query, _supports(rng, lists["test_by_class"][str(cls)], query, shots), cls))
    return drawn


test_episodes.__test__ = False  # not a test, whatever pytest makes of its name


def threshold_episodes(lists: dict[str, Any], seed: int, episodes: int, shots: int) -> list[Episode]:
    """Episodes of training classes and images, class-balanced, for choices that must not see the test."""
    fold = lists["fold"]
    return [train_episode(lists, seed, fold, index, shots, "balanced") for index in range(episodes)]


def save_episodes(path: Path, episodes: list[Episode], **more: Any) -> None:
    """Write {"episodes": [{"query", "supports", "class"}], ...more}."""
    rows = [{"query": e.query, "supports": list(e.supports), "class": e.cls} for e in episodes]
    write_json(path, {**more, "episodes": rows})


def load_episodes(path: Path) -> list[Episode]:
    """The episodes that save_episodes wrote."""
    rows = read_json(path)["episodes"]
    return [Episode(row["query"], tuple(row["supports"]), row["class"]) for row in rows]


def run(job: Job) -> dict[str, Any]:
    """Write episodes.json of one fold, shot and evaluation seed."""
    lists = read_json(job.inputs["lists"] / "lists.json")
    seed, shots = job.args["eval_seed"], job.args["shot"]
    episodes = test_episodes(lists, seed, job.params["evaluate"]["episodes"], shots)
    more = {"fold": lists["fold"], "seed": seed, "shots": shots}
    if why := describe_excluded(lists):
        print(why, flush=True)
        more["why"] = why
    save_episodes(job.out / "episodes.json", episodes, **more)
    queries = {str(cls): sum(e.cls == cls for e in episodes) for cls in lists["test_classes"]}
    return {"episodes": len(episodes), "queries": queries}
