"""Data sets in the layout of PASCAL VOC 2012 that BAM, PFENet and HSNet use.

root/JPEGImages/ID.jpg, root/SegmentationClassAug/ID.png (palette or grey: 0 background, 1..20, 255 unknown) and
lists with one image per line, see list_files.read_list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from i2r.data.content import Listing, content_digest, content_sha
from i2r.data.list_files import read_list
from i2r.data.pairs import Pair, check_pairs, describe_faults, faults, open_image, open_mask
from i2r.data.sources import DataError, Source, check_folder, voc_paths

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle"),
    *("bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# The class of ImageNet's 1000 for each, as in the authors' pretraining; for person it is military uniform.
IMAGENET_CLASSES = dict(
    zip(
        VOC_CLASSES,
        (
            *(404, 671, 13, 833, 898, 829, 817, 281, 423, 345),
            *(532, 151, 339, 665, 652, 738, 349, 831, 466, 851),
        ),
        strict=True,
    )
)
# VOC's own four kinds of classes
GROUPS = (
    ("person",),
    ("bird", "cat", "cow", "dog", "horse", "sheep"),
    ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    ("bottle", "chair", "diningtable", "pottedplant", "sofa", "tvmonitor"),
)
IMAGES, MASKS = "JPEGImages", "SegmentationClassAug"
LISTS = {"train": "lists/train.txt", "val": "lists/val.txt"}


def read_image(root: Path, name: str) -> np.ndarray:
    """Image `name` as uint8 (H, W, 3) RGB; errors as pairs.open_image."""
    return open_image(root / voc_paths(name)[0])


def read_mask(root: Path, name: str) -> np.ndarray:
    """Mask `name` as uint8 (H, W): class ids, 255 unknown; errors as pairs.open_mask."""
    return open_mask(root / voc_paths(name)[1])


def index_pairs(
    root: Path,
    listing: Listing,
    pairs: list[Pair],
    classes: tuple[str, ...],
    *,
    faulty: str = "stop",
    workers: int = 1,
    saved: Path | None = None,
) -> dict[str, Any]:
    """Decode and check all pairs of a data set, and record the classes that each image shows.

    Args:
        root: folder of the data set, which the sentences about pairs that are left out do not name.
        listing: its lists and files.
        pairs: one for each id of the lists.
        faulty: `stop` at bad pairs; `leave_out`: go on without them.
        workers, saved: see pairs.check_pairs.

    Returns:
        {"classes": names, "train": {id: {class: pixels}}, "val": likewise, "sizes": {id: [H, W]}, "digest": see
        content.content_digest, "files": {id: sha256 of image and mask}}, and, if there are any, "left_out": {id: what
        is wrong}. Ids are in the order of the lists; classes are strings "1", "2" ...

    Raises:
        DataError: pairs are bad; the message names each.
    """
    checked = check_pairs(pairs, len(classes), workers, saved)
    bad = faults(checked)
    if bad and faulty == "stop":
        raise DataError(describe_faults(bad, len(pairs)))
    known = {}
    for pair in pairs:
        if pair.name not in bad:
            known[pair.image], known[pair.mask] = checked[pair.name].image, checked[pair.name].mask
    good = {name: item for name, item in checked.items() if name not in bad}
    index: dict[str, Any] = {
        split: {name: good[name].pixels for name in ids if name in good}
        for split, ids in listing.lists.items()
    }
    sizes = {name: item.size for name, item in good.items()}
    digest = content_digest(listing, lambda path: known.get(path) or content_sha(path))
    named = {name: why.replace(f"{root}{os.sep}", "") for name, why in bad.items()}
    left_out = {"left_out": named} if named else {}
    files = {name: [item.image, item.mask] for name, item in good.items()}
    return {"classes": list(classes), **index, "sizes": sizes, **left_out, "digest": digest, "files": files}


def list_voc(root: Path, train_list: str | None = None, val_list: str | None = None) -> Listing:
    """The lists of a data set and the files that they name, which may be missing.

    Args:
        train_list, val_list: list files, relative to `root`; None: those of LISTS.

    Raises:
        DataError: the folder or a list is missing, or a line has no known form.
    """
    check_folder(root, IMAGES, MASKS)
    given = {"train": train_list, "val": val_list}
    lists = {
        split: read_list(root / (given[split] or usual), IMAGES, MASKS) for split, usual in LISTS.items()
    }
    names = dict.fromkeys(lists["train"] + lists["val"])
    return Listing(lists, {name: tuple(root / path for path in voc_paths(name)) for name in names})


def index_voc(
    root: Path,
    train_list: str | None = None,
    val_list: str | None = None,
    classes: tuple[str, ...] = VOC_CLASSES,
    **how: Any,
) -> dict[str, Any]:
    """Index a data set in this layout, see list_voc and index_pairs."""
    found = list_voc(root, train_list, val_list)
    return index_pairs(
        root, found, [Pair(name, *files) for name, files in found.files.items()], classes, **how
    )


def listing(options: Mapping[str, Any], root: Path) -> Listing:
    """list_voc with the lists of section `data`."""
    return list_voc(root, options.get("train_list"), options.get("val_list"))


def _index(options: Mapping[str, Any], _out: Path, root: Path | None, **how: Any) -> dict[str, Any]:
    if root is None:
        raise DataError(
            "data.root: missing; it must be the folder with JPEGImages/ and SegmentationClassAug/"
        )
    return index_voc(root, options.get("train_list"), options.get("val_list"), **how)


SOURCE = Source(VOC_CLASSES, _index, read_image, read_mask, IMAGENET_CLASSES, listing=listing, groups=GROUPS)
