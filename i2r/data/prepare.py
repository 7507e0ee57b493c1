"""Folders that the sources `voc` and `coco` read, made from the official archives as they unpack (docs/method.md 9)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from i2r.data.coco import MASKS as COCO_MASKS
from i2r.data.coco import SPLITS, draw_masks, read_annotations
from i2r.data.list_files import read_list
from i2r.data.pairs import in_processes
from i2r.data.palette import save_mask
from i2r.data.sources import DataError
from i2r.data.voc import IMAGES, LISTS, MASKS
from i2r.files import replacing, write_text
from i2r.progress import Progress

# Lengths of the official lists, and of what follows from them
PUBLISHED = {
    "VOC train": 1464,
    "VOC val": 1449,
    "SBD without VOC val": 5623,
    "VOC train not in SBD": 330,
    "train": 5953,
}


class Origins(NamedTuple):
    """Folders of the official archives: VOC2012/, and SBD's dataset/ (benchmark.tgz) with its list train_noval.txt."""

    voc: Path
    sbd: Path
    train_noval: Path | None


def _first(root: Path, below: Iterable[str], holds: str, what: str) -> Path:
    for folder in (root / name for name in below):
        if (folder / holds).exists():
            return folder
    raise DataError(
        f"{root}: no {holds} of {what} here, nor in {', '.join(name for name in below if name != '.')}"
    )


def origins(voc: Path, sbd: Path) -> Origins:
    """Find the folders in what the archives unpack to.

    Raises:
        DataError: one is missing.
    """
    home = _first(voc, (".", "VOC2012", "VOCdevkit/VOC2012"), "ImageSets/Segmentation/train.txt", "VOC 2012")
    dataset = _first(sbd, (".", "dataset", "benchmark_RELEASE/dataset"), "cls", "SBD")
    names = ("train_noval.txt", "lists/train_noval.txt")  # `i2r data fetch` puts it into lists/
    lists = (folder / name for folder in (dataset, *dataset.parents[:2], sbd) for name in names)
    return Origins(home, dataset, next((path for path in lists if path.is_file()), None))


def voc_lists(given: Origins) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Training and validation list in BAM's order, and the lengths of the lists that they are made of.

    Training: SBD's images that are not in VOC's val, by id; then VOC's training images that are not among them, by id.
    """
    sets = given.voc / "ImageSets/Segmentation"
    train, val = (sorted(read_list(sets / f"{split}.txt")) for split in ("train", "val"))
    sbd = read_list(given.train_noval or given.sbd / "train.txt")
    kept = sorted(set(sbd) - set(val))
    rest = sorted(set(train) - set(kept))
    lengths = (len(train), len(val), len(kept), len(rest), len(kept) + len(rest))
    return {"train": kept + rest, "val": val}, dict(zip(PUBLISHED, lengths, strict=True))


def check_lengths(found: Mapping[str, int]) -> str:
    """A sentence about the lengths of the lists.

    Raises:
        DataError: the official lists are whole, but what follows from them is not as published.
    """
    if found == PUBLISHED:
        return "the lists have the published lengths: 5953 training and 1449 validation images"
    text = ", ".join(f"{name} {count} (published {PUBLISHED[name]})" for name, count in found.items())
    official = ("VOC train", "VOC val", "SBD without VOC val")
    if all(found[name] == PUBLISHED[name] for name in official):
        raise DataError(f"the lists of VOC and SBD do not overlap as published: {text}")
    return f"not the whole data set: {text}"


def prepare_voc(voc: Path, sbd: Path | None, out: Path, workers: int = 1) -> str:
    """Make the folder of the source `voc`: JPEGImages/, SegmentationClassAug/ and lists/ in BAM's order.

    A mask is VOC's own, where VOC has one, or else SBD's. Images and VOC's masks are hard links, or copies on another
    disk. Killed at any moment, the next call goes on. A folder that already has SegmentationClassAug/ is left as it is.

    Returns:
        What was made, in a sentence.

    Raises:
        DataError: files are missing or lists are not as published.
    """
    if (voc / MASKS).is_dir():
        return _prepared(voc)
    if sbd is None:
        raise DataError(f"{voc}: has no {MASKS}/, so SBD is needed: --sbd DIR")
    given = origins(voc, sbd)
    lists, lengths = voc_lists(given)
    said = check_lengths(lengths)
    names = lists["train"] + lists["val"]
    for folder in (IMAGES, MASKS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    missing = []
    with Progress("prepare", total=len(names), unit="image") as progress:
        for why in in_processes(partial(_prepare_pair, given, out), names, workers):
            missing += why
            progress.update(1)
    if missing:
        more = f"\n  ... and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise DataError(f"{len(missing)} files are missing or wrong:\n  " + "\n  ".join(missing[:20]) + more)
    for split, ids in lists.items():
        lines = (f"{IMAGES}/{name}.jpg {MASKS}/{name}.png\n" for name in ids)
        write_text(out / LISTS[split], "".join(lines))
    return f"{out}: {len(lists['train'])} training and {len(lists['val'])} validation images; {said}"


def _prepared(root: Path) -> str:
    """What to say of a folder that somebody prepared for BAM, PFENet or HSNet."""
    if not (root / IMAGES).is_dir():
        raise DataError(f"{root}: has {MASKS}/ but no {IMAGES}/")
    lists = [file for file in LISTS.values() if (root / file).is_file()]
    if len(lists) < 2:
        return (
            f"{root} has masks, but not {' and '.join(LISTS.values())}; name its lists in data.train_list and "
            "data.val_list"
        )
    counts = [len(read_list(root / file, IMAGES, MASKS)) for file in lists]
    return f"{root} is prepared, use it as data.root: {counts[0]} training and {counts[1]} validation images"


def _prepare_pair(given: Origins, out: Path, name: str) -> list[str]:
    """Link or write an image and its mask; sentences about what is missing."""
    images = (given.voc / IMAGES / f"{name}.jpg", given.sbd / "img" / f"{name}.jpg")
    image = next((path for path in images if path.is_file()), None)
    wrong = [] if image else [f"{images[0]}: no such file"]
    if image:
        _place(image, out / IMAGES / image.name)
    target, own = out / MASKS / f"{name}.png", given.voc / "SegmentationClass" / f"{name}.png"
    try:
        if own.is_file():
            _place(own, target)
        elif not target.is_file():
            labels = read_sbd(given.sbd / "cls" / f"{name}.mat")
            with replacing(target) as temporary:
                save_mask(temporary, labels)
    except DataError as error:
        wrong.append(str(error))
    return wrong


def _place(source: Path, target: Path) -> None:
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    target.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(source.resolve(), target)
        return
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def read_sbd(path: Path) -> np.ndarray:
    """The class ids of an SBD annotation (.mat), uint8 (H, W).

    Raises:
        DataError: the file is missing or is no SBD annotation.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        labels = loadmat(path)["GTcls"]["Segmentation"][0][0]
    except Exception as error:  # scipy has its own errors for each kind of damage
        raise DataError(f"{path}: not an annotation of SBD: {error}") from None
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f"{path}: GTcls.Segmentation is {labels.dtype} {labels.shape}, not a map of uint8")
    return np.ascontiguousarray(labels)


def prepare_coco(coco: Path, out: Path, crowds: str = "unknown", workers: int = 1) -> str:
    """Draw the masks of the source `coco`, in a folder with links to the images and annotations of another.

    Returns:
        What was made, in a sentence.

    Raises:
        DataError: see coco.draw_masks.
    """
    out.mkdir(parents=True, exist_ok=True)
    if out.resolve() != coco.resolve():
        for name in ("annotations", *SPLITS.values()):
            if not (coco / name).is_dir():
                raise DataError(f"{coco}: has no {name}/")
            if not (out / name).exists():
                (out / name).symlink_to((coco / name).resolve())
    annotated = {split: read_annotations(out, split) for split in SPLITS}
    masks = draw_masks(out, annotated["train"] | annotated["val"], crowds, workers)
    counts = " and ".join(f"{len(annotated[split])} {folder}" for split, folder in SPLITS.items())
    return f"{out}: {len(masks)} masks in {COCO_MASKS[crowds]}/, of {counts} images"
