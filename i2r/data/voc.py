"""Data sets in the layout of PASCAL VOC 2012 that BAM, PFENet and HSNet use.

root/JPEGImages/ID.jpg, root/SegmentationClassAug/ID.png (palette or grey: 0 background, 1..20, 255 unknown) and
lists with one image per line: an id, or "JPEGImages/ID.jpg SegmentationClassAug/ID.png", with any leading folders.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from i2r.data.sources import DataError, Source
from i2r.progress import Progress

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
IMAGES, MASKS = "JPEGImages", "SegmentationClassAug"


def image_path(root: Path, name: str) -> Path:
    """Path of image `name`."""
    return root / IMAGES / f"{name}.jpg"


def mask_path(root: Path, name: str) -> Path:
    """Path of the mask of image `name`."""
    return root / MASKS / f"{name}.png"


def read_list(path: Path) -> list[str]:
    """The ids of a list file, in its order.

    Raises:
        DataError: the file is missing, empty or not UTF-8, an id is repeated, or a line has another form.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such list file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    names: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        image = PurePosixPath(words[0])
        if len(words) == 1 and len(image.parts) == 1:
            name = image.name.removesuffix(".jpg")
        elif len(words) == 2:
            name, mask = image.stem, PurePosixPath(words[1])
            if (image.parent.name, mask.parent.name, mask.stem) != (IMAGES, MASKS, name):
                raise DataError(
                    f"{path}:{number}: expected {IMAGES}/ID.jpg {MASKS}/ID.png with one ID, got {line!r}"
                )
        else:
            raise DataError(f"{path}:{number}: expected an id or an image and a mask, got {line!r}")
        if name in names:
            raise DataError(f"{path}:{number}: {name} is in the list twice")
        names[name] = None
    if not names:
        raise DataError(f"{path}: the list is empty")
    return list(names)


def _open(path: Path, data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, but it is in a list") from None


def _decode_mask(path: Path, data: bytes) -> np.ndarray:
    # Pillow, because OpenCV turns palette indices into grey values of their colours
    file = _open(path, data)
    if file.mode not in ("P", "L"):
        raise DataError(
            f"{path}: a mask must be a palette or grey PNG with 8 bits; this file has mode {file.mode}"
        )
    try:
        return np.array(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def open_image(path: Path) -> np.ndarray:
    """An image file as uint8 (H, W, 3) RGB.

    Raises:
        DataError: the file is missing or not an image.
    """
    # The orientation tag is ignored, because masks have none
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(_read_bytes(path), np.uint8), flags)
    if image is None:
        raise DataError(f"{path}: cannot be read as an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def open_mask(path: Path) -> np.ndarray:
    """A mask file as uint8 (H, W): its palette indices or grey values.

    Raises:
        DataError: the file is missing or not a mask.
    """
    return _decode_mask(path, _read_bytes(path))


def read_image(root: Path, name: str) -> np.ndarray:
    """Image `name` as uint8 (H, W, 3) RGB; errors as open_image."""
    return open_image(image_path(root, name))


def read_mask(root: Path, name: str) -> np.ndarray:
    """Mask `name` as uint8 (H, W): class ids, 255 unknown; errors as open_mask."""
    return open_mask(mask_path(root, name))


def _inspect(root: Path, name: str, classes: int) -> tuple[dict[str, int], list[int], bytes]:
    """Pixels of each class, [height, width] and a digest of one image, which is checked."""
    image, mask = image_path(root, name), mask_path(root, name)
    image_bytes, mask_bytes = _read_bytes(image), _read_bytes(mask)
    width, height = _open(image, image_bytes).size
    labels = _decode_mask(mask, mask_bytes)
    if labels.shape != (height, width):
        raise DataError(
            f"{mask}: the mask has {labels.shape[1]} x {labels.shape[0]} pixels, its image {width} x {height}"
        )
    counts = np.bincount(labels.ravel(), minlength=256)
    strange = [int(value) for value in np.flatnonzero(counts) if classes < value < 255]
    if strange:
        raise DataError(f"{mask}: values {strange} are neither 0..{classes} nor 255")
    pixels = {str(cls): int(counts[cls]) for cls in range(1, classes + 1) if counts[cls]}
    digest = hashlib.sha256(image_bytes).digest() + hashlib.sha256(mask_bytes).digest()
    return pixels, [height, width], digest


def index_voc(
    root: Path, train_list: str, val_list: str, classes: tuple[str, ...] = VOC_CLASSES
) -> dict[str, Any]:
    """Read and check all images and masks of a data set, and record the classes that each image shows.

    Args:
        train_list, val_list: list files, relative to `root`.

    Returns:
        {"classes": names, "train": {id: {class: pixels}}, "val": likewise, "sizes": {id: [H, W]}, "digest": sha256
        of lists, images and masks}. Ids are in the order of the lists; classes are strings "1".."20".

    Raises:
        DataError: a file is missing, or has the wrong size, mode or values; the message names it.
    """
    if not root.is_dir():
        raise DataError(f"data.root: no such folder: {root}")
    for folder in (IMAGES, MASKS):
        if not (root / folder).is_dir():
            raise DataError(f"data.root: {root} has no folder {folder}")
    lists = {"train": read_list(root / train_list), "val": read_list(root / val_list)}
    names = list(dict.fromkeys(lists["train"] + lists["val"]))
    pixels, sizes, digest = {}, {}, hashlib.sha256()
    with Progress("index", total=len(names), unit="image") as progress:
        for name in names:
            pixels[name], sizes[name], content = _inspect(root, name, len(classes))
            digest.update(name.encode() + b"\0" + content)
            progress.update(1)
    for split, ids in lists.items():
        digest.update("\n".join([split, *ids]).encode())
    index: dict[str, Any] = {split: {name: pixels[name] for name in ids} for split, ids in lists.items()}
    return {"classes": list(classes), **index, "sizes": sizes, "digest": digest.hexdigest()}


def _index(options: Mapping[str, Any], _out: Path, root: Path | None) -> dict[str, Any]:
    if root is None:
        raise DataError(
            "data.root: missing; it must be the folder with JPEGImages/ and SegmentationClassAug/"
        )
    return index_voc(root, options["train_list"], options["val_list"])


SOURCE = Source(VOC_CLASSES, _index, read_image, read_mask, IMAGENET_CLASSES)
