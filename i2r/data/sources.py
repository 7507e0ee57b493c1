"""Data sources, which `data.source` of params chooses. They are registered in config.data_set.SOURCES.

docs/extending.md describes how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from i2r.config.data_set import SOURCES
from i2r.config.registry import find
from i2r.data.content import Listing
from i2r.errors import InputError


class DataError(InputError):
    """A data set that cannot be used; the message names the file and the problem."""


def check_folder(root: Path, *below: str) -> None:
    """That a data set's folder is there, with these folders in it.

    Raises:
        DataError: one of them is missing.
    """
    for folder in (root, *(root / name for name in below)):
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder; `data.root` or `--root` must name the data set's folder"
            )


def voc_paths(name: str) -> tuple[str, str]:
    """Image and mask of an id in VOC's layout."""
    return f"JPEGImages/{name}.jpg", f"SegmentationClassAug/{name}.png"


@dataclass(frozen=True)
class Source:
    """A kind of data set. Its functions must be module-level, because they are sent to loading processes.

    Attributes:
        classes: names of classes 1..C, C a multiple of the number of folds in SOURCES; None: the index finds them.
        index: (section `data` of params, folder of the data job, folder of the data set, and by name faulty, workers,
            saved) -> index, as voc.index_pairs describes all of these. A source that generates images writes them to
            VOC/ in the job's folder; other sources get the folder data.root, and check its content.
        image: (folder of the data set, id) -> uint8 (H, W, 3) RGB.
        mask: (folder of the data set, id) -> uint8 (H, W), class ids and 255 for unknown; with `class_of` 1 on the
            object instead of its class id.
        imagenet: class name -> the corresponding class of ImageNet's 1000; empty if there is no such table.
        folds: contiguous or interleaved, see lists.fold_classes, or lists, see lists.fold_lists; used where data.folds
            of params is null.
        listing: (section `data`, folder of the data set) -> the files that decide it, found without reading images;
            None for generated data.
        paths: id -> its image and mask below the folder of the data set.
        class_of: id -> name of the only class that the image shows; None: images show several classes.
        groups: names of classes that look alike or are of one kind; empty if nobody has declared them.
    """

    classes: tuple[str, ...] | None
    index: Callable[..., dict[str, Any]]
    image: Callable[[Path, str], np.ndarray]
    mask: Callable[[Path, str], np.ndarray]
    imagenet: Mapping[str, int] = field(default_factory=dict)
    folds: str = "contiguous"
    listing: Callable[[Mapping[str, Any], Path], Listing] | None = None
    paths: Callable[[str], tuple[str, str]] = voc_paths
    class_of: Callable[[str], str] | None = None
    groups: tuple[tuple[str, ...], ...] = ()


def open_source(name: str) -> Source:
    """The source with this name.

    Raises:
        DataError: no source has this name.
    """
    if name not in SOURCES:
        raise DataError(f"data.source must be one of {', '.join(SOURCES)}, got {name!r}")
    return find(SOURCES[name].source)
