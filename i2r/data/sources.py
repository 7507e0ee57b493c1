"""Data sources: what `data.source` of params names. They are registered in config.schema.SOURCES.

To add one: write a module with a `Source`, and its line there (docs/extending.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from i2r.config.schema import SOURCES


class DataError(ValueError):
    """A data set that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Source:
    """A kind of data set. All functions are module-level, so that loading processes can be given them.

    Attributes:
        classes: names of classes 1..C; C is a multiple of the four folds.
        index: (section `data` of params, folder of the data job, folder of the data set) -> index, as
            voc.index_voc describes it. A source that generates its images writes them to VOC/ in the job's folder;
            the others get the folder that data.root names, and check what is in it.
        image: (folder of the data set, id) -> uint8 (H, W, 3) RGB.
        mask: likewise -> uint8 (H, W), class ids and 255 for unknown.
        imagenet: class -> the class of ImageNet's 1000 that stands for it; empty where there is none.
    """

    classes: tuple[str, ...]
    index: Callable[[Mapping[str, Any], Path, Path | None], dict[str, Any]]
    image: Callable[[Path, str], np.ndarray]
    mask: Callable[[Path, str], np.ndarray]
    imagenet: Mapping[str, int] = field(default_factory=dict)


def open_source(name: str) -> Source:
    """The source of that name.

    Raises:
        DataError: there is none.
    """
    if name not in SOURCES:
        raise DataError(f"data.source must be one of {', '.join(SOURCES)}, got {name!r}")
    module, attribute = SOURCES[name].split(":")
    return getattr(importlib.import_module(module), attribute)
