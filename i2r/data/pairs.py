"""Reading images and masks, and checking pairs of them by decoding both whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from i2r.data.sources import DataError
from i2r.files import naming_the_disk
from i2r.progress import Progress

ORIENTATION = 0x0112  # EXIF tag: 1 upright
_CHUNK = 64  # pairs that a process checks at a time
_SHOWN = 200  # faults that a message lists
# What libjpeg says of image data that it had to invent; it only complains of harmless bytes between markers
_INVENTED = ("premature end", "bad Huffman code", "Corrupt JPEG data: bad")


class Pair(NamedTuple):
    """An image and its mask.

    Attributes:
        size: height and width that the image must have; None: those of its mask.
        upright: refuse an image with an EXIF orientation, because the mask may belong to the turned image.
        cls: the only class of the image, whose mask is black and white; None: the mask holds class ids.
    """

    name: str
    image: Path
    mask: Path
    size: tuple[int, int] | None = None
    upright: bool = True
    cls: int | None = None


class Checked(NamedTuple):
    """What a pair holds: pixels of each class, [height, width], sha256 of both files; or what is wrong with it."""

    pixels: dict[str, int]
    size: list[int]
    image: str
    mask: str
    fault: str | None = None


# --- reading -------------------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    """Content of an image or mask file.

    Raises:
        DataError: the file is missing, empty, a folder, or may not be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, but it is in a list") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, not a file") from None
    except PermissionError:
        raise DataError(f"{path}: may not be read; change its permissions") from None
    if not data:
        raise DataError(f"{path}: the file is empty")
    return data


def _open(path: Path, data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: its header is damaged ({error})") from None


def decode_mask(path: Path, data: bytes) -> np.ndarray:
    """A mask's palette indices or grey values, uint8 (H, W); raises DataError for any other file."""
    # Pillow, because OpenCV turns palette indices into grey values of their colours
    file = _open_png(path, data)
    if file.mode not in ("P", "L"):
        raise DataError(
            f"{path}: a mask must be a palette or grey PNG with 8 bits; this file has mode {file.mode}"
        )
    bits, colour = data[24:26]  # of the header; grey values of fewer bits are stretched to 0..255 when read
    if colour == 0 and bits != 8:
        raise DataError(f"{path}: a grey mask must have 8 bits, this one has {bits}")
    return _decoded(path, file)


def decode_object(path: Path, data: bytes) -> np.ndarray:
    """A black-and-white mask of any PNG mode, uint8 (H, W): 1 on the object, 0 elsewhere; raises DataError for others.

    The object is where the grey value is at least 128, as HSNet reads FSS-1000, or 1 in a mask of 0 and 1, which the
    examples of FSS-1000's authors have.
    """
    grey = _decoded(path, _open_png(path, data), "L")
    labels = (grey >= (128 if grey.max() > 1 else 1)).astype(np.uint8)
    if not labels.any():
        raise DataError(f"{path}: the mask shows no object")
    return labels


def _open_png(path: Path, data: bytes) -> Image.Image:
    file = _open(path, data)
    if file.format != "PNG":
        raise DataError(f"{path}: a mask must be a PNG, but this is a {file.format}")
    return file


def _decoded(path: Path, file: Image.Image, mode: str | None = None) -> np.ndarray:
    """The pixels of an opened file, converted to a mode of Pillow's."""
    try:
        return np.array(file.convert(mode) if mode else file)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def decode_image(path: Path, data: bytes) -> np.ndarray:
    """An image file as uint8 (H, W, 3) RGB; grey images get three equal channels."""
    # The orientation tag is ignored, because masks have none
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # of a size that no image has, for example
        image = None
    if image is None:
        raise DataError(f"{path}: cannot be read as an image")
    return image


def open_image(path: Path) -> np.ndarray:
    """An image file as uint8 (H, W, 3) RGB.

    Raises:
        DataError: the file cannot be read, or is not an image.
    """
    return decode_image(path, read_bytes(path))


def open_mask(path: Path) -> np.ndarray:
    """A mask file as uint8 (H, W): its palette indices or grey values.

    Raises:
        DataError: the file cannot be read, or is not a mask.
    """
    return decode_mask(path, read_bytes(path))


# --- checking one pair ---------------------------------------------------------------------------------------


@contextmanager
def _stderr() -> Iterator[Callable[[], str]]:
    """What C libraries write to stderr meanwhile: libjpeg reports broken data only there."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def said() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _check_image(pair: Pair, data: bytes) -> tuple[int, int]:
    """Height and width of an image that was decoded whole; raises DataError if anything is wrong with it."""
    path, file = pair.image, _open(pair.image, data)
    if file.format not in ("JPEG", "MPO"):  # MPO: a JPEG with further images behind it
        raise DataError(f"{path}: called .jpg, but it is a {file.format}")
    turned = file.getexif().get(ORIENTATION, 1)
    if pair.upright and turned not in (0, 1):
        raise DataError(
            f"{path}: has the EXIF orientation {turned}, so it cannot be known whether the mask belongs to the stored "
            "or the turned image; store it upright without the tag"
        )
    with _stderr() as said:
        image = decode_image(path, data)
        wrong = next((line for line in said().splitlines() if any(word in line for word in _INVENTED)), None)
    if wrong:
        raise DataError(f"{path}: damaged, part of the image is missing ({wrong})")
    return image.shape[:2]


def _pixels(pair: Pair, labels: np.ndarray, classes: int) -> dict[str, int]:
    """Class -> its pixels in a decoded mask; raises DataError for values that are no class."""
    counts = np.bincount(labels.ravel(), minlength=256)
    if pair.cls is not None:
        return {str(pair.cls): int(counts[1])}
    if strange := [int(value) for value in np.flatnonzero(counts) if classes < value < 255]:
        raise DataError(f"{pair.mask}: values {strange} are neither 0..{classes} nor 255")
    return {str(cls): int(counts[cls]) for cls in range(1, classes + 1) if counts[cls]}


def check_pair(classes: int, pair: Pair) -> Checked:
    """Decode an image and its mask whole and compare them; what is wrong is in `fault`."""
    try:
        image_bytes, mask_bytes = read_bytes(pair.image), read_bytes(pair.mask)
        labels = (decode_mask if pair.cls is None else decode_object)(pair.mask, mask_bytes)
        height, width = _check_image(pair, image_bytes)
        if pair.size not in (None, (height, width)):
            raise DataError(
                f"{pair.image}: has {width} x {height} pixels, its annotation says {pair.size[1]} x {pair.size[0]}"
            )
        if labels.shape != (height, width):
            raise DataError(
                f"{pair.mask}: the mask has {labels.shape[1]} x {labels.shape[0]} pixels, its image {width} x {height}"
            )
        pixels = _pixels(pair, labels, classes)
    except DataError as error:
        return Checked({}, [], "", "", str(error))
    digests = (hashlib.sha256(data).hexdigest() for data in (image_bytes, mask_bytes))
    return Checked(pixels, [height, width], *digests)


# --- checking all --------------------------------------------------------------------------------------------


def check_pairs(
    pairs: Sequence[Pair], classes: int, workers: int = 1, saved: Path | None = None
) -> dict[str, Checked]:
    """Check all pairs in `workers` processes; the result does not depend on their number.

    Args:
        saved: a file to which finished checks are added; a check that was interrupted goes on from there.
    """
    done = _read_saved(saved)
    stamps = {pair.name: [*_stamp(pair.image), *_stamp(pair.mask)] for pair in pairs} if saved else {}
    found = {
        pair.name: Checked(*done[pair.name][1])
        for pair in pairs
        if pair.name in done and done[pair.name][0] == stamps[pair.name]
    }
    left = [pair for pair in pairs if pair.name not in found]
    with Progress("check", total=len(pairs), unit="image", start=len(found)) as progress:
        for pair, checked in zip(
            left, in_processes(partial(check_pair, classes), left, workers), strict=True
        ):
            found[pair.name] = checked
            if saved and not checked.fault:
                with naming_the_disk(saved), saved.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([pair.name, stamps[pair.name], checked]) + "\n")
            progress.update(1)
    return {pair.name: found[pair.name] for pair in pairs}


def in_processes(function: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    """Results of a module-level function, in the order of the items."""
    if workers <= 1 or len(items) <= _CHUNK:
        yield from map(function, items)
        return
    # forkserver: OpenCV's threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        yield from pool.map(function, items, chunksize=_CHUNK)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (-1, -1)
    return stat.st_size, stat.st_mtime_ns


def _read_saved(path: Path | None) -> dict[str, tuple[list[int], list[Any]]]:
    """Name -> stamps and check; a line that was cut when the process was killed is left out."""
    if path is None:
        return {}
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            name, stamps, checked = json.loads(line)
        except ValueError:
            continue
        rows[name] = stamps, checked
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        with naming_the_disk(path), path.open("a", encoding="utf-8") as file:
            file.write("\n")
    return rows


def faults(checked: dict[str, Checked]) -> dict[str, str]:
    """Name -> sentence for each bad pair."""
    return {name: item.fault for name, item in checked.items() if item.fault}


def describe_faults(found: dict[str, str], pairs: int) -> str:
    """One message that lists all bad pairs, and says what to do."""
    how = "(`data.faulty: leave_out`, `--faulty leave_out`)"
    if len(found) == 1:
        return f"{next(iter(found.values()))}; repair it, or go on without it {how}"
    lines = list(found.values())[:_SHOWN]
    more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "\n  ".join(
        [
            f"{len(found)} of {pairs} pairs of image and mask are not usable; repair them, or go on without them "
            f"{how}:",
            *lines,
            *more,
        ]
    )
