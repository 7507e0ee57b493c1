"""Which images train and test a fold, and in which classes, by the rule that gives BAM's published lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BY_LIST = "lists"  # the kind of folds of a source whose lists divide the classes


def fold_classes(
    fold: int, classes: int = 20, folds: str = "contiguous", number: int = 4
) -> tuple[list[int], list[int]]:
    """Training and test classes of a fold f of C classes, ids from 1.

    Args:
        folds: `contiguous` tests classes f C/n + 1 .. (f + 1) C/n (PASCAL-5i; COCO-20i in PANet); `interleaved` tests
            f + 1, f + 1 + n, f + 1 + 2n ... (COCO-20i in BAM and I2R).
        number: n, the number of folds.

    Raises:
        ValueError: no such fold, C is no multiple of n, or unknown `folds`.
    """
    if classes % number or not 0 <= fold < number:
        raise ValueError(
            f"fold must be 0..{number - 1} and classes a multiple of {number}, got {fold} and {classes}"
        )
    share = classes // number
    if folds == "contiguous":
        test = list(range(fold * share + 1, (fold + 1) * share + 1))
    elif folds == "interleaved":
        test = list(range(fold + 1, classes + 1, number))
    else:
        raise ValueError(f"data.folds must be contiguous or interleaved, got {folds!r}")
    return [cls for cls in range(1, classes + 1) if cls not in test], test


def _shown(images: dict[str, dict[str, int]]) -> list[int]:
    """The classes that images show, ascending."""
    return sorted({int(cls) for pixels in images.values() for cls in pixels})


def _select(
    images: dict[str, dict[str, int]], classes: list[int], min_area: int, only: bool
) -> dict[str, list[int]]:
    """Image -> those of `classes` with at least `min_area` pixels; `only`: images without any other class."""
    wanted = {str(cls) for cls in classes}
    chosen = {}
    for name, pixels in images.items():
        if only and not wanted.issuperset(pixels):
            continue
        large = [cls for cls in classes if pixels.get(str(cls), 0) >= max(min_area, 1)]
        if large:
            chosen[name] = large
    return chosen


def _present(
    images: dict[str, dict[str, int]], chosen: dict[str, list[int]], classes: list[int]
) -> dict[str, list[int]]:
    """Each chosen image -> those of `classes` with at least one pixel."""
    return {name: [cls for cls in classes if images[name].get(str(cls))] for name in chosen}


def _by_class(images: dict[str, list[int]], classes: list[int]) -> dict[str, list[str]]:
    return {str(cls): [name for name, present in images.items() if cls in present] for cls in classes}


def fold_lists(
    index: dict[str, Any],
    fold: int,
    *,
    novel: str = "drop",
    min_area: int,
    draw: str = "large",
    folds: str = "contiguous",
    number: int = 4,
) -> dict[str, Any]:
    """The lists of one fold (docs/method.md 9), in the order of the master lists.

    Training keeps an image with at least `min_area` pixels of a training class: with `novel: drop` (BAM) only if it
    has no pixel of a test class, with `keep` (PFENet, HSNet) in any case. The test keeps an image with at least
    `min_area` pixels of a test class. `min_area` counts pixels of the stored image. An image is in the list of each
    class of which it has `min_area` pixels; supports come from these lists.

    Args:
        draw: classes among which that of an episode is drawn (docs/method.md 8.1), given its query: `present`, all
            with a pixel in the image; `large`, those with `min_area` pixels.
        folds, number: see `fold_classes`; with `lists` (and one fold) the training and test classes are those that
            the training and the validation list show.

    Returns:
        "train", "test": ids; "train_by_class", "test_by_class": {class: ids}; "train_of", "test_of": {id: classes
        among which an episode's is drawn}; "train_classes", "test_classes": all classes of the fold; "names": names of
        all classes, from class 1; "protocol": the arguments of this function that choose among images and classes.

    Raises:
        ValueError: as `fold_classes`, unknown `draw`, or images in both lists of the fold.
    """
    if draw not in ("present", "large"):
        raise ValueError(f"data.draw must be present or large, got {draw!r}")
    names = index["classes"]
    if folds == BY_LIST:
        train_classes, test_classes = (_shown(index[split]) for split in ("train", "val"))
    else:
        train_classes, test_classes = fold_classes(fold, len(names), folds, number)
    train = _select(index["train"], train_classes, min_area, only=novel == "drop")
    test = _select(index["val"], test_classes, min_area, only=False)
    if both := [name for name in test if name in train]:
        named = ", ".join(both[:5]) + (" ..." if len(both) > 5 else "")
        raise ValueError(f"{len(both)} images are in the training and the test list of fold {fold}: {named}")
    drawn_train, drawn_test = train, test
    if draw == "present":
        drawn_train = _present(index["train"], train, train_classes)
        drawn_test = _present(index["val"], test, test_classes)
    return {
        "fold": fold,
        "names": names,
        "train_classes": train_classes,
        "test_classes": test_classes,
        "train": list(train),
        "test": list(test),
        "train_of": drawn_train,
        "test_of": drawn_test,
        "train_by_class": _by_class(train, train_classes),
        "test_by_class": _by_class(test, test_classes),
        "protocol": {"folds": folds, "novel": novel, "min_area": min_area, "draw": draw},
    }


def held_out(index: Mapping[str, Any], lists: Mapping[str, Any]) -> dict[str, Any]:
    """The lists of a fold with the validation images that show no test class as training images, by the same rule."""
    images, classes, how = index["val"], lists["train_classes"], lists["protocol"]
    chosen = _select(images, classes, how["min_area"], only=True)
    drawn = _present(images, chosen, classes) if how["draw"] == "present" else chosen
    by_class = _by_class(chosen, classes)
    return {**lists, "train": list(chosen), "train_of": drawn, "train_by_class": by_class, "vanished": {}}
