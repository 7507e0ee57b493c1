"""An indexed data set: images and masks by id."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from i2r.data.index_table import INDEX, read_index, read_summary
from i2r.data.sources import Source, check_folder, open_source
from i2r.data.transforms import UNKNOWN, unknown


@dataclass(frozen=True)
class Dataset:
    """Images by id.

    Attributes:
        file: the index.
        summary: what it says of the whole data set, see index_table.read_summary.
        root: folder of the images.
        source: reads them.
    """

    file: Path
    summary: dict[str, Any]
    root: Path
    source: Source

    @property
    def classes(self) -> list[str]:
        """Names of classes 1..C."""
        return self.summary["classes"]

    @cached_property
    def index(self) -> dict[str, Any]:
        """The images of both lists with their classes, as voc.index_pairs describes them; read on first use."""
        return read_index(self.file)

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
        data_dir: the job's folder, with index.parquet (and VOC/, if it generated the images).
        root: folder of the images; None: data_dir/VOC.

    Raises:
        DataError: the folder does not exist.
    """
    root = root or data_dir / "VOC"
    check_folder(root)
    summary = read_summary(data_dir / INDEX)
    return Dataset(data_dir / INDEX, summary, root, open_source(summary["source"]))
