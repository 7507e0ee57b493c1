"""COCO 2014 as in COCO-20i: root/train2014/, val2014/, annotations/instances_{train,val}2014.json.

Class k = 1..80 is the k-th of COCO's category ids. Masks are drawn once, as PNG in root/masks/: objects in the order of
the annotations, each over those before it, and crowds as unknown (255). The source coco-crowds draws crowds as their
class, in root/masks-crowds/. Lists are all images with an annotation, by image id, or those of a list file.

There is no table of ImageNet's classes, because nobody has published one for COCO and many of the 80 have no single
counterpart (person, fork, skis): `class_source: table` works with a classifier of COCO's own classes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from pycocotools import mask as coco_mask

from i2r.data.content import Listing
from i2r.data.list_files import read_list
from i2r.data.pairs import Pair, in_processes, open_image, open_mask
from i2r.data.palette import save_mask
from i2r.data.sources import DataError, Source, check_folder
from i2r.data.voc import index_pairs
from i2r.files import read_json, sha256, write_json, write_text
from i2r.progress import Progress

SPLITS = {"train": "train2014", "val": "val2014"}
MASKS = {"unknown": "masks", "class": "masks-crowds"}  # what crowds become -> folder of the masks
# beside the masks: what they were drawn from, and their digests once all are drawn
RULE, DIGESTS = "rule.json", "sha256.txt"
UNKNOWN = 255
FIELDS = {  # what is read of each entry of an instances file
    "categories": {"id", "name"},
    "images": {"id", "file_name", "height", "width"},
    "annotations": {"image_id", "category_id", "segmentation", "iscrowd"},
}
COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *(
        "elephant",
        "bear",
        "zebra",
        "giraffe",
        "backpack",
        "umbrella",
        "handbag",
        "tie",
        "suitcase",
        "frisbee",
    ),
    *(
        "skis",
        "snowboard",
        "sports ball",
        "kite",
        "baseball bat",
        "baseball glove",
        "skateboard",
        "surfboard",
    ),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard"),
    *("cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase"),
    *("scissors", "teddy bear", "hair drier", "toothbrush"),
)
# COCO's supercategories, from person to indoor: the classes of each follow one another.
_ENDS = tuple(accumulate((1, 8, 5, 10, 5, 10, 7, 10, 6, 6, 5, 7), initial=0))
GROUPS = tuple(COCO_CLASSES[start:end] for start, end in pairwise(_ENDS))
_NAME = re.compile(r"COCO_(train2014|val2014)_\d{12}")


class Annotated(NamedTuple):
    """An image's size and objects: (class 1..80, whether it is a crowd, segmentation as in COCO's json)."""

    height: int
    width: int
    objects: tuple[tuple[int, bool, Any], ...]


def paths(name: str, crowds: str = "unknown") -> tuple[str, str]:
    """Image and mask of an id such as COCO_val2014_000000000042, below the data set's folder.

    Raises:
        DataError: the id has another form.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise DataError(f"no such image: {name!r} is not of the form COCO_val2014_000000000042")
    return f"{found[1]}/{name}.jpg", f"{MASKS[crowds]}/{found[1]}/{name}.png"


def read_image(root: Path, name: str) -> np.ndarray:
    """Image `name` as uint8 (H, W, 3) RGB; grey ones get three equal channels. Errors as pairs.open_image."""
    return open_image(root / paths(name)[0])


def read_mask(root: Path, name: str, crowds: str = "unknown") -> np.ndarray:
    """Mask `name` as uint8 (H, W): class ids 1..80, 255 unknown; errors as pairs.open_mask."""
    return open_mask(root / paths(name, crowds)[1])


# --- annotations ---------------------------------------------------------------------------------------------


def annotation_file(root: Path, split: str) -> Path:
    """instances_*.json of a split, train or val."""
    return root / "annotations" / f"instances_{SPLITS[split]}.json"


def read_annotations(root: Path, split: str) -> dict[str, Annotated]:
    """Image -> its size and objects, for each image with an annotation, by image id.

    Raises:
        DataError: the file is missing, is not COCO's, or names other categories or images than the official one.
    """
    path = annotation_file(root, split)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; beside annotations/ must stand COCO's train2014/ and val2014/"
        )
    try:
        values = json.loads(path.read_bytes())
        if any(not fields <= entry.keys() for name, fields in FIELDS.items() for entry in values[name]):
            raise KeyError
        categories = sorted(values["categories"], key=lambda category: category["id"])
        images = {image["id"]: image for image in values["images"]}
        annotations = values["annotations"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path}: not an instances file of COCO, or only a part of one; unpack it again"
        ) from None
    if tuple(category["name"] for category in categories) != COCO_CLASSES:
        raise DataError(f"{path}: does not have COCO's 80 categories")
    classes = {category["id"]: cls for cls, category in enumerate(categories, start=1)}
    objects: dict[int, list[tuple[int, bool, Any]]] = {}
    for given in annotations:
        if given["image_id"] not in images or given["category_id"] not in classes:
            raise DataError(
                f"{path}: annotation {given.get('id')} belongs to no image or no category of the file"
            )
        image, segmentation = images[given["image_id"]], given["segmentation"]
        if not _fits(segmentation, image):
            raise DataError(f"{path}: annotation {given.get('id')} does not fit image {image['file_name']}")
        entry = classes[given["category_id"]], bool(given["iscrowd"]), segmentation
        objects.setdefault(given["image_id"], []).append(entry)
    found = {}
    for number in sorted(objects):
        image = images[number]
        name = Path(image["file_name"]).stem
        if paths(name)[0] != f"{SPLITS[split]}/{image['file_name']}":
            raise DataError(f"{path}: image {number} is called {image['file_name']}, not as in COCO 2014")
        found[name] = Annotated(image["height"], image["width"], tuple(objects[number]))
    return found


def _fits(segmentation: Any, image: Mapping[str, Any]) -> bool:
    """Whether run lengths have the image's size, or polygons three points or more (four numbers would be a box)."""
    if isinstance(segmentation, list):
        return all(len(part) >= 6 and len(part) % 2 == 0 for part in segmentation)
    return segmentation["size"] == [image["height"], image["width"]]


def draw_mask(image: Annotated, crowds: str = "unknown") -> np.ndarray:
    """The mask of an image, uint8 (H, W): each object over those before it; crowds as 255 or as their class."""
    labels = np.zeros((image.height, image.width), np.uint8)
    for cls, crowd, segmentation in image.objects:
        rle = segmentation
        if isinstance(rle, list):
            if not rle:
                continue
            rle = coco_mask.merge(coco_mask.frPyObjects(rle, image.height, image.width))
        elif isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, image.height, image.width)
        labels[coco_mask.decode(rle).astype(bool)] = UNKNOWN if crowd and crowds == "unknown" else cls
    return labels


# --- masks ---------------------------------------------------------------------------------------------------


def draw_masks(
    root: Path, annotated: Mapping[str, Annotated], crowds: str, workers: int = 1
) -> dict[str, str]:
    """Draw the masks that are missing or that the digests of an earlier drawing do not fit; id -> sha256 of each.

    Killed at any moment, the next call goes on. Masks of other annotations or of another rule are drawn anew.

    Raises:
        DataError: masks have to be drawn, but the folder cannot be written to.
    """
    home = root / MASKS[crowds]
    rule = _wanted(root, crowds)
    if (known := _drawn(home, rule)) is not None and known.keys() == annotated.keys():
        bad = [name for name in annotated if not _is(root / paths(name, crowds)[1], known[name])]
        if not bad:
            return known
    else:
        known, bad = {}, list(annotated)
    try:
        home.mkdir(exist_ok=True)
        if not os.access(home, os.W_OK):
            raise PermissionError
        with FileLock(home / ".lock"):
            return _draw(root, annotated, rule, known, bad, workers)
    except PermissionError:
        raise DataError(
            f"{home}: {len(bad)} masks have to be drawn, but the folder cannot be written to; "
            f"`i2r data prepare coco --coco {root} --out DIR` makes another folder with masks and links to the images"
        ) from None


def _draw(
    root: Path,
    annotated: Mapping[str, Annotated],
    rule: Mapping[str, str],
    known: dict[str, str],
    bad: list[str],
    workers: int,
) -> dict[str, str]:
    crowds = rule["crowds"]
    home = root / MASKS[crowds]
    (home / DIGESTS).unlink(missing_ok=True)
    if (not known and not (home / RULE).is_file()) or _rule(home) != rule:
        for folder in SPLITS.values():
            shutil.rmtree(home / folder, ignore_errors=True)
        write_json(home / RULE, rule)
    for folder in SPLITS.values():
        (home / folder).mkdir(exist_ok=True)
    if known:
        for name in bad:  # those that were changed
            (root / paths(name, crowds)[1]).unlink(missing_ok=True)
    tasks = [(root / paths(name, crowds)[1], annotated[name]) for name in bad]
    with Progress("draw masks", total=len(tasks), unit="mask") as progress:
        results = in_processes(partial(_write_mask, crowds), tasks, workers)
        for name, digest in zip(bad, results, strict=True):
            known[name] = digest
            progress.update(1)
    ordered = {name: known[name] for name in annotated}
    write_text(home / DIGESTS, "".join(f"{digest}  {name}\n" for name, digest in ordered.items()))
    return ordered


def _write_mask(crowds: str, task: tuple[Path, Annotated]) -> str:
    path, image = task
    if not path.is_file():
        temporary = path.with_name(
            f".{path.name}"
        )  # not flushed to disk one by one, which takes longer than drawing
        save_mask(temporary, draw_mask(image, crowds))
        temporary.replace(path)
    return sha256(path)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _wanted(root: Path, crowds: str) -> dict[str, str]:
    """What masks are drawn from."""
    return {"crowds": crowds, **{split: sha256(annotation_file(root, split)) for split in SPLITS}}


def _rule(home: Path) -> dict[str, str] | None:
    return read_json(home / RULE) if (home / RULE).is_file() else None


def _drawn(home: Path, rule: Mapping[str, str] | None = None) -> dict[str, str] | None:
    """Id -> sha256 of the finished masks in a folder; None if they are not finished, or follow another rule."""
    file = home / DIGESTS
    if not file.is_file() or (rule is not None and _rule(home) != rule):
        return None
    rows = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in rows}


# --- the source ----------------------------------------------------------------------------------------------


def _lists(
    options: Mapping[str, Any], root: Path, known: Mapping[str, Collection[str]]
) -> dict[str, list[str]]:
    """Lists of both splits: a list file's order, or by image id.

    Raises:
        DataError: a list names images without an annotation.
    """
    lists = {}
    annotated = {name for images in known.values() for name in images}
    for split, images in known.items():
        file = options.get(f"{split}_list")
        lists[split] = read_list(root / file) if file else list(images)
        if strange := [name for name in lists[split] if name not in annotated]:
            named = ", ".join(strange[:5]) + (" ..." if len(strange) > 5 else "")
            raise DataError(f"{root / file}: {len(strange)} images have no annotation: {named}")
    return lists


def _listing(
    options: Mapping[str, Any],
    root: Path,
    known: Mapping[str, Collection[str]] | None = None,
    crowds: str = "unknown",
) -> Listing:
    check_folder(root)
    drawn = _drawn(root / MASKS[crowds])
    if known is None and drawn and _rule(root / MASKS[crowds]) == _wanted(root, crowds):
        # the annotations take long to read, and the masks' list names the same images
        known = {
            split: [name for name in drawn if paths(name)[0].startswith(folder)]
            for split, folder in SPLITS.items()
        }
    lists = _lists(options, root, known or {split: read_annotations(root, split) for split in SPLITS})
    names = dict.fromkeys(name for ids in lists.values() for name in ids)
    return Listing(
        lists,
        {name: (root / paths(name)[0],) for name in names},
        more=tuple(annotation_file(root, split) for split in SPLITS),
        rule=f"crowds {crowds}",
        derived={root / paths(name, crowds)[1]: digest for name, digest in (drawn or {}).items()},
    )


def _index(
    options: Mapping[str, Any], _out: Path, root: Path | None, crowds: str = "unknown", **how: Any
) -> dict[str, Any]:
    if root is None:
        raise DataError("data.root: missing; it must hold COCO's annotations/, train2014/ and val2014/")
    check_folder(root)
    known = {split: read_annotations(root, split) for split in SPLITS}
    listing = _listing(options, root, known, crowds)
    annotated = known["train"] | known["val"]
    draw_masks(root, annotated, crowds, how.get("workers", 1))
    pairs = []
    for name in listing.files:
        image, mask = (root / path for path in paths(name, crowds))
        # masks are drawn on the stored pixels, so a camera's orientation tag says nothing about them
        pairs.append(Pair(name, image, mask, annotated[name][:2], upright=False))
    return index_pairs(root, listing, pairs, COCO_CLASSES, **how)


def _source(crowds: str) -> Source:
    own = {"crowds": crowds}
    return Source(
        COCO_CLASSES,
        partial(_index, **own),
        read_image,
        partial(read_mask, **own),
        folds="interleaved",
        listing=partial(_listing, **own),
        paths=partial(paths, **own),
        groups=GROUPS,
    )


SOURCE, WITH_CROWDS = _source("unknown"), _source("class")
