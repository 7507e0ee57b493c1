"""An indexed data set: images and masks by id."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from i2r.data.sources import DataError, Source, open_source
from i2r.data.transforms import UNKNOWN, unknown
from i2r.files import read_json


@dataclass(frozen=True)
class Dataset:
    """Images by id.

    Attributes:
        index: as voc.index_voc describes it, with the name of the data source as `source`.
        root: folder of the images.
        source: reads them.
    """

    index: dict[str, Any]
    root: Path
    source: Source

    @property
    def classes(self) -> list[str]:
        """Names of classes 1..C."""
        return self.index["classes"]

    def image(self, name: str) -> np.ndarray:
        """uint8 (H, W, 3) RGB."""
        return self.source.image(self.root, name)

    def mask(self, name: str) -> np.ndarray:
        """(H, W), class ids and transforms.unknown: uint8, or int16 where images show one of very many classes."""
        mask = self.source.mask(self.root, name)
        if self.source.class_of is None:
            return mask
        wide = np.where(mask == 1, self.numbers[self.source.class_of(name)], 0).astype(np.int16)
        wide[mask == UNKNOWN] = unknown(wide)
        return wide

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Name of a class -> its id."""
        return {name: cls for cls, name in enumerate(self.classes, start=1)}


def open_dataset(data_dir: Path, root: Path | None = None) -> Dataset:
    """The data set that a finished data job has indexed.

    Args:
        data_dir: the job's folder, with index.json (and VOC/, if it generated the images).
        root: folder of the images; None: data_dir/VOC.

    Raises:
        DataError: the folder does not exist.
    """
    root = root or data_dir / "VOC"
    if not root.is_dir():
        raise DataError(f"data.root: no such folder: {root}")
    index = read_json(data_dir / "index.json")
    return Dataset(index, root, open_source(index["source"]))
