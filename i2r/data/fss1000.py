"""FSS-1000: root/CLASS/1.jpg ... 10.jpg, their masks root/CLASS/1.png ..., and lists of classes in root/splits/.

There are no folds: the classes of one list train, those of another are tested (HSNet's trn.txt and test.txt, or its
val.txt). An image shows one class. Class k is the k-th folder by name. Ids are CLASS/NUMBER, in the order of class and
number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from i2r.data.content import Listing
from i2r.data.list_files import read_text
from i2r.data.lists import BY_LIST
from i2r.data.pairs import Pair, decode_object, open_image, read_bytes
from i2r.data.sources import DataError, Source, check_folder
from i2r.data.voc import index_pairs
from i2r.files import digest_of

LISTS = {"train": "splits/trn.txt", "val": "splits/test.txt"}


def paths(name: str) -> tuple[str, str]:
    """Image and mask of an id such as abacus/1, below the data set's folder."""
    return f"{name}.jpg", f"{name}.png"


def class_of(name: str) -> str:
    """The class that an image shows."""
    return name.rpartition("/")[0]


def read_image(root: Path, name: str) -> np.ndarray:
    """Image `name` as uint8 (H, W, 3) RGB; errors as pairs.open_image."""
    return open_image(root / paths(name)[0])


def read_mask(root: Path, name: str) -> np.ndarray:
    """Mask `name` as uint8 (H, W): 1 on the object; errors as pairs.decode_object."""
    path = root / paths(name)[1]
    return decode_object(path, read_bytes(path))


def class_names(root: Path) -> tuple[str, ...]:
    """The folders that hold a first image, by name.

    Raises:
        DataError: there is none.
    """
    check_folder(root)
    names = tuple(sorted(folder.name for folder in root.iterdir() if (folder / "1.jpg").is_file()))
    if not names:
        raise DataError(f"{root}: no folder of a class with a 1.jpg")
    return names


def read_classes(path: Path, known: tuple[str, ...]) -> list[str]:
    """The classes of a list, one name a line, sorted.

    Raises:
        DataError: the list is missing or empty, names a class twice, or one that has no folder.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such list of classes, one name a line; HSNet has the usual ones in data/splits/fss/ "
            "(trn.txt, val.txt, test.txt)"
        )
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: the list is empty")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: in the list twice: {_some(twice)}")
    if strange := sorted(set(names) - set(known)):
        raise DataError(f"{path}: {len(strange)} classes have no folder with a 1.jpg: {_some(strange)}")
    return sorted(names)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _images(root: Path, cls: str) -> list[str]:
    """Ids of a class by number; a number with only an image or only a mask counts, so that the other is missed."""
    files = (
        path for path in (root / cls).iterdir() if path.suffix in (".jpg", ".png") and path.stem.isdecimal()
    )
    return [f"{cls}/{number}" for number in sorted({int(path.stem) for path in files})]


def listing(options: Mapping[str, Any], root: Path) -> Listing:
    """The images of the classes of both lists.

    Raises:
        DataError: as read_classes, or a class is in both lists.
    """
    known = class_names(root)
    classes = {
        split: read_classes(root / (options.get(f"{split}_list") or usual), known)
        for split, usual in LISTS.items()
    }
    if both := sorted(set(classes["train"]) & set(classes["val"])):
        raise DataError(
            f"{root}: {len(both)} classes are in the training and in the test list: {_some(both)}"
        )
    lists = {
        split: [name for cls in names for name in _images(root, cls)] for split, names in classes.items()
    }
    files = {name: tuple(root / path for path in paths(name)) for ids in lists.values() for name in ids}
    # the numbers of classes depend on the names of all folders
    return Listing(lists, files, rule=f"classes {digest_of(' '.join(known))}")


def _index(options: Mapping[str, Any], _out: Path, root: Path | None, **how: Any) -> dict[str, Any]:
    if root is None:
        raise DataError("data.root: missing; it must be the folder with a folder for each class")
    found, names = listing(options, root), class_names(root)
    numbers = {name: number for number, name in enumerate(names, start=1)}
    pairs = [Pair(name, *files, cls=numbers[class_of(name)]) for name, files in found.files.items()]
    return index_pairs(root, found, pairs, names, **how)


SOURCE = Source(
    None, _index, read_image, read_mask, folds=BY_LIST, listing=listing, paths=paths, class_of=class_of
)
