"""The section `data` of params, and the registry of data sources."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from i2r.config.base import Count, Positive, Section, Share, said


def grid_side(size: int) -> int:
    """The size, if it can be the side of a network's input.

    Raises:
        ValueError: size - 1 is not a multiple of 8.
    """
    if size == 1 or (size - 1) % 8:
        raise ValueError(f"size - 1 must be a multiple of 8 (473, 321, 97 ...), got {size}")
    return size


class Shapes(Section):
    """The embedded data set (i2r/data/shapes)."""

    train_images: Positive = Field(2000, description="number of training images")
    val_images: Positive = Field(500, description="number of validation images")
    seed: Count = Field(0, description="seed of the images")
    lookalikes: Share = Field(
        0.0,
        description="probability that one class of an image is replaced by one that looks like another class of the "
        "image (GROUPS in i2r/data/shapes/silhouettes.py)",
    )
    drawn: bool = Field(
        False, description="the same scenes as pencil drawings, to test networks on data of another kind"
    )


class Data(Section):
    """The data set, its lists, and the size of a network's input."""

    source: str = Field(
        "voc",
        description="shapes: generated; voc: a folder in the layout of PASCAL VOC; coco: COCO 2014, crowds as "
        "unknown; coco-crowds: crowds as their class; fss1000: FSS-1000, divided into classes by its lists",
    )
    root: str | None = Field(
        None,
        description="folder with JPEGImages/ and SegmentationClassAug/ (voc), with annotations/, train2014/ and "
        "val2014/ (coco), or with a folder for each class (fss1000); null: the official archives, fetched into "
        "runtime.data_root (voc, coco)",
    )
    digest: str | None = Field(
        None,
        description="sha256 of the data set, as the data step prints it; with it a plan does not need the data; null: "
        "the data as they are",
    )
    size: Positive = said("S, side of a network's input in pixels; S - 1 is a multiple of 8")
    train_list: str | None = Field(
        None,
        description="training list, below root; null: lists/train.txt (voc), all annotated images by image id (coco), "
        "splits/trn.txt (fss1000: classes)",
    )
    val_list: str | None = Field(
        None, description="validation list, below root; null: as for train_list, splits/test.txt (fss1000)"
    )
    faulty: Literal["stop", "leave_out"] = Field(
        "stop",
        description="images that are damaged or do not fit their masks: stop, or leave_out and name them",
    )
    counts: Literal["assert", "print"] = Field(
        "assert",
        description="for a data set as long as the published one whose folds have other lengths: stop, or print them",
    )
    novel: Literal["drop", "keep"] = Field(
        "drop", description="training images with pixels of a test class: drop (BAM) or keep (PFENet, HSNet)"
    )
    min_area: Count = Field(
        2048, description="pixels of a class that an image must have to count for the class"
    )
    draw: Literal["present", "large"] = said(
        "an episode's class is drawn among all in the query's mask (present), or those with min_area pixels (large)"
    )
    folds: Literal["contiguous", "interleaved"] | None = Field(
        None,
        description="with four folds, fold f tests the f-th quarter of the classes (contiguous), or every fourth, from "
        "class f + 1 (interleaved: COCO-20i of BAM and I2R); null: as is usual for the source",
    )
    min_class_images: Positive = Field(
        5, description="test classes with fewer images are left out and named; K shots need at least K + 1"
    )
    shapes: Shapes = Field(default_factory=Shapes, description="the generated data set")

    @field_validator("source")
    @classmethod
    def _source(cls, source: str) -> str:
        if source not in SOURCES:
            raise ValueError(f"must be one of {', '.join(SOURCES)}, got {source!r}")
        return source

    @field_validator("size")
    @classmethod
    def _grid(cls, size: int) -> int:
        return grid_side(size)

    @model_validator(mode="after")
    def _root(self) -> Self:
        if self.source not in (GENERATED, *OFFICIAL) and not self.root:
            raise ValueError(f"root must be the folder of the data set when source is {self.source}")
        if self.folds and SOURCES[self.source].by_list:
            raise ValueError(
                f"folds: {self.folds}, but the lists of {self.source} divide its classes; use null"
            )
        return self

    @property
    def reduces(self) -> bool:
        """Whether images can be larger than the network's input."""
        return self.source != GENERATED or self.size < GENERATED_SIDE

    @property
    def official(self) -> Official | None:
        """The official archives that the data come from, where no folder is given."""
        return OFFICIAL.get(self.source) if self.root is None else None


class SourceEntry(NamedTuple):
    """A data source of the registry."""

    source: str  # address of an i2r.data.sources.Source
    folds: int = 4  # number of its folds

    @property
    def by_list(self) -> bool:
        """Whether its lists divide the classes, so that no validation image shows a training class."""
        return self.folds == 1


GENERATED = "shapes"  # the source that needs no folder
GENERATED_SIDE = 96  # longer side of its images; with S = 97 they are not resampled
SOURCES: dict[str, SourceEntry] = {
    "shapes": SourceEntry("i2r.data.shapes.generate:SOURCE"),
    "voc": SourceEntry("i2r.data.voc:SOURCE"),
    "coco": SourceEntry("i2r.data.coco:SOURCE"),
    "coco-crowds": SourceEntry("i2r.data.coco:WITH_CROWDS"),
    "fss1000": SourceEntry("i2r.data.fss1000:SOURCE", folds=1),
}


class Official(NamedTuple):
    """A data set that is fetched: its archives (i2r/data/fetch/archives.csv), and its folder in runtime.data_root."""

    archives: tuple[str, ...]
    folder: str


_COCO2014 = Official(("coco2014-train", "coco2014-val", "coco2014-annotations"), "coco2014")
OFFICIAL: dict[str, Official] = {
    "voc": Official(("voc2012", "sbd", "sbd-train-noval"), "VOC2012"),
    "coco": _COCO2014,
    "coco-crowds": _COCO2014,
}
