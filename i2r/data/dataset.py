"""An indexed data set, and the step that makes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from i2r.config import schema as params
from i2r.data import voc
from i2r.data.shapes import generate as shapes
from i2r.files import read_json, write_json

if TYPE_CHECKING:
    from i2r.pipeline.jobs import Job


@dataclass(frozen=True)
class Dataset:
    """Images by id.

    Attributes:
        index: as voc.index_voc describes it.
        root: the folder with JPEGImages/ and SegmentationClassAug/.
    """

    index: dict[str, Any]
    root: Path

    @property
    def classes(self) -> list[str]:
        """Names of classes 1..C."""
        return self.index["classes"]

    def image(self, name: str) -> np.ndarray:
        """uint8 (H, W, 3) RGB."""
        return voc.read_image(self.root, name)

    def mask(self, name: str) -> np.ndarray:
        """uint8 (H, W), class ids and 255."""
        return voc.read_mask(self.root, name)


def open_dataset(data_dir: Path, root: Path | None = None) -> Dataset:
    """The data set that a finished data job has indexed.

    Args:
        data_dir: the job's folder, with index.json (and VOC/, if it generated the pictures).
        root: where the pictures lie; None: data_dir/VOC.

    Raises:
        voc.DataError: if the pictures are not there.
    """
    root = root or data_dir / "VOC"
    if not (root / voc.IMAGES).is_dir():
        raise voc.DataError(f"data.root: {root} has no folder {voc.IMAGES}")
    return Dataset(read_json(data_dir / "index.json"), root)


def run(job: Job) -> dict[str, Any]:
    """Generate the data set (shapes) or check the one in data.root (voc), and write index.json.

    Raises:
        voc.DataError: a file is missing or wrong, or the data set is not the one that data.digest names.
    """
    data = job.params["data"]
    if data["source"] == "shapes":
        root, lists, classes = job.out / "VOC", ("lists/train.txt", "lists/val.txt"), shapes.CLASSES
        shapes.make_shapes(root, params.Shapes(**data["shapes"]))
    else:
        root, lists, classes = job.data_root, (data["train_list"], data["val_list"]), voc.VOC_CLASSES
    index = voc.index_voc(root, *lists, classes=classes)
    print(f"digest {index['digest']}")
    if data.get("digest") not in (None, index["digest"]):
        raise voc.DataError(
            f"data.digest: {root} is not the data set that the params name: they say {data['digest']}, "
            f"its lists, images and masks have {index['digest']}"
        )
    counts = {
        split: Counter(cls for pixels in index[split].values() for cls in pixels)
        for split in ("train", "val")
    }
    for cls, name in enumerate(classes, start=1):
        print(f"{name}: {counts['train'][str(cls)]} training, {counts['val'][str(cls)]} validation images")
    write_json(job.out / "index.json", index)
    return {"train_images": len(index["train"]), "val_images": len(index["val"]), "digest": index["digest"]}
