"""The embedded data set: generated images of twenty kinds of objects, in the layout of PASCAL VOC.

Each image has one or two objects of one class, one to three of other classes, and clutter. Only shape tells the
classes apart: colour and texture do not depend on the class, and up to one object in four copies them, slightly
changed, from the background or from another object.

Classes of an image are drawn uniformly, regardless of folds. An image shows 2 to 4 of the 20 classes, 2.7 on
average, so about 45 % of the images show none of five given classes: this part of the training list remains in each
fold after BAM's rule has dropped the images with test classes. With `lookalikes` p, one class of an image is replaced
with probability p by one that looks like another class of the image (silhouettes.GROUPS), of whatever fold. With
`drawn` the images are pencil drawings of the same scenes, with the same masks: data of another kind.

objects.csv lists every object with the number of its pixels, and of those that nothing covers.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from i2r.config import data_set as params
from i2r.data.palette import save_mask
from i2r.data.shapes.silhouettes import CLASSES, GROUPS, Outline, outline
from i2r.data.sources import Source
from i2r.data.voc import index_voc, read_image, read_mask
from i2r.files import replacing
from i2r.progress import Progress

OBJECTS = "objects.csv"  # of a data job
SIDE = params.GENERATED_SIDE
SHORT_SIDE = (80, 96)  # range of the shorter side
EXTENT = (32.0, 62.0)  # longer side of an object, pixels
OTHERS = (0.5, 0.35, 0.15)  # probability of one, two, three objects of other classes in an image
COPIED = (0.1, 0.15)  # probability that an object copies the look of the background, of another object
SUPERSAMPLE = 3
JPEG_QUALITY = 92
SPLITS = ("train", "val")

Rng = np.random.Generator

_KINDS = ("flat", "gradient", "stripes", "checks", "dots", "patches", "grain")
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_ROW, _COLUMN = np.indices((128, 128), dtype=np.float32)
_DIAGONAL = _ROW + _COLUMN


class Look(NamedTuple):
    """Colour and texture: a pattern between two colours."""

    kind: str
    angle: float
    period: float  # pixels
    colours: np.ndarray  # (2, 3) RGB, 0..255


class Object(NamedTuple):
    """An object of an image: its class, its pixels in the image, and those of them that no later shape covers."""

    cls: int
    pixels: int
    visible: int


class Scene(NamedTuple):
    """Image uint8 (H, W, 3) RGB; labels uint8 (H, W): 0 background, 1..20 classes, 255 a border of one pixel."""

    image: np.ndarray
    labels: np.ndarray
    objects: list[Object]


def _random_look(rng: Rng) -> Look:
    first = rng.uniform(25, 230, 3)
    second = np.clip(first + rng.normal(0, 15, 3), 5, 250)
    kind = _KINDS[rng.integers(len(_KINDS))]
    return Look(kind, rng.uniform(0, np.pi), rng.uniform(4, 14), np.stack([first, second]))


def _similar_look(rng: Rng, look: Look) -> Look:
    """The same pattern, rotated, with both colours shifted together."""
    shift = rng.choice([-1, 1]) * rng.uniform(22, 50) + rng.normal(0, 8, 3)
    period = look.period * rng.uniform(0.7, 1.4)
    return Look(look.kind, rng.uniform(0, np.pi), period, np.clip(look.colours + shift, 0, 255))


def _texture(rng: Rng, look: Look, height: int, width: int) -> np.ndarray:
    """float32 (3, height, width)."""
    row, column = _ROW[:height, :width], _COLUMN[:height, :width]
    along = np.float32(np.cos(look.angle)) * column + np.float32(np.sin(look.angle)) * row
    pace, phase = np.float32(2 * np.pi / look.period), np.float32(rng.uniform(0, 2 * np.pi))
    if look.kind == "flat":
        mix = np.full((height, width), 0.5, np.float32)
    elif look.kind == "gradient":
        low, high = along.min(), along.max()
        mix = (along - low) / (high - low + 1e-3)
    elif look.kind == "stripes":
        mix = np.clip(0.5 + np.sin(pace * along + phase), 0, 1)
    elif look.kind in ("checks", "dots"):
        across = np.float32(np.cos(look.angle)) * row - np.float32(np.sin(look.angle)) * column
        waves = np.sin(pace * along + phase) * np.sin(pace * across)
        mix = np.clip(0.5 + 3 * waves if look.kind == "checks" else 4 * waves - 1, 0, 1)
    else:
        step = look.period if look.kind == "patches" else 2.0
        grid = rng.random((int(height / step) + 3, int(width / step) + 3), dtype=np.float32)
        mix = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    first, second = look.colours.astype(np.float32)[..., None, None]
    return first + mix * (second - first)


class Canvas:
    """An image under construction: image float32 (3, H, W) RGB 0..255, labels uint8 (H, W), and top uint8 (H, W): the
    number of the object that each pixel shows (0: none)."""

    def __init__(self, rng: Rng, height: int, width: int) -> None:
        self.rng = rng
        self.look = _random_look(rng)
        self.image = _texture(rng, self.look, height, width)
        self.labels = np.zeros((height, width), np.uint8)
        self.top = np.zeros((height, width), np.uint8)
        self.painted: list[tuple[int, int]] = []  # class and pixels of each object
        if rng.random() < 0.5:  # divide the background into two regions
            other = _similar_look(rng, self.look) if rng.random() < 0.5 else _random_look(rng)
            angle, reach = rng.uniform(-0.5, 0.5), rng.uniform(0.3, 0.7)
            rise = np.float32(np.tan(angle)) * (_COLUMN[:height, :width] - width / 2)
            below = _ROW[:height, :width] + rise > reach * height
            np.copyto(self.image, _texture(rng, other, height, width), where=below)

    def paint(self, shape: Outline, centre: tuple[float, float], extent: float, look: Look, cls: int) -> None:
        """Paint an outline over the image; with class 0 the labels of the background stay as they are.

        Args:
            centre: x, y in pixels.
            extent: longer side of the outline's bounding box in pixels.
        """
        height, width = self.labels.shape
        side = int(extent) + 5
        left, top = int(centre[0] - side / 2), int(centre[1] - side / 2)
        origin = np.array([centre[0] - left, centre[1] - top])
        canvas = np.zeros((side * SUPERSAMPLE, side * SUPERSAMPLE), np.uint8)
        for points, filled in shape:
            pixels = (points * (extent / 2) + origin) * SUPERSAMPLE - 0.5
            cv2.fillPoly(canvas, [np.round(pixels * 16).astype(np.int32)], 255 if filled else 0, shift=4)
        cover = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
        inside = (cover >= 128).astype(np.uint8)
        rim = inside - cv2.erode(inside, _CROSS)
        around = cv2.dilate(inside, _CROSS) - inside

        rng = self.rng
        colour = _texture(rng, look, side, side)
        light = np.float32(rng.uniform(-0.2, 0.2) / side) * _DIAGONAL[:side, :side] + np.float32(1)
        light += np.float32(rng.uniform(-0.5, -0.1)) * rim  # shaded edge
        colour *= light

        y0, y1, x0, x1 = max(top, 0), min(top + side, height), max(left, 0), min(left + side, width)
        if y0 >= y1 or x0 >= x1:
            return
        crop = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        image, labels, number = (part[..., y0:y1, x0:x1] for part in (self.image, self.labels, self.top))
        image += (cover[crop] * np.float32(1 / 255)) * (colour[:, *crop] - image)
        border = around[crop].astype(bool)
        np.copyto(labels, 255, where=border if cls else border & (labels != 0))
        solid = inside[crop].astype(bool)
        np.copyto(labels, cls, where=solid)
        if cls:
            self.painted.append((cls, int(solid.sum())))
        np.copyto(number, len(self.painted) if cls else 0, where=solid)

    def clutter(self, count: int, extent: tuple[float, float]) -> None:
        """Paint shapes that belong to no class, half of them in the look of the background."""
        height, width = self.labels.shape
        rng = self.rng
        for _ in range(count):
            look = _similar_look(rng, self.look) if rng.random() < 0.5 else _random_look(rng)
            centre = rng.uniform(0, width), rng.uniform(0, height)
            self.paint(outline(rng, 0), centre, rng.uniform(*extent), look, 0)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, 3) RGB with noise added, labels uint8 (H, W) 0..20 and 255."""
        rng = self.rng
        grain = rng.standard_normal(self.labels.shape, dtype=np.float32) * np.float32(rng.uniform(0.5, 4.5))
        image = np.clip(self.image + grain, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(image.transpose(1, 2, 0)), self.labels

    def objects(self) -> list[Object]:
        """Its objects, in the order in which they were painted."""
        visible = np.bincount(self.top.ravel(), minlength=len(self.painted) + 1)[1:]
        return [Object(*each, int(seen)) for each, seen in zip(self.painted, visible, strict=True)]


def _object_looks(rng: Rng, background: Look, count: int) -> list[Look]:
    looks: list[Look] = []
    for _ in range(count):
        draw = rng.random()
        if draw < COPIED[0]:
            looks.append(_similar_look(rng, background))
        elif draw < sum(COPIED) and looks:
            looks.append(_similar_look(rng, looks[rng.integers(len(looks))]))
        else:
            looks.append(_random_look(rng))
    return looks


def _place(rng: Rng, height: int, width: int, extents: np.ndarray) -> list[tuple[float, float]]:
    """Centres that keep objects mostly inside the image and apart: for each, the best of a few draws."""
    centres: list[tuple[float, float]] = []
    for i, extent in enumerate(extents):
        margin = 0.36 * extent
        best, least = (width / 2, height / 2), np.inf
        for x, y in rng.uniform((margin, margin), (width - margin, height - margin), (12, 2)):
            overlap = sum(
                max(0.0, 0.8 - np.hypot(x - a, y - b) / ((extent + other) / 2))
                for (a, b), other in zip(centres, extents[:i], strict=True)
            )
            if overlap < least:
                best, least = (float(x), float(y)), overlap
            if overlap < 0.1:  # objects may still overlap a little
                break
        centres.append(best)
    return centres


def _with_lookalike(rng: Rng, kinds: np.ndarray) -> np.ndarray:
    """The classes of an image, the second replaced by one of the first's group unless the image has one already."""
    name = CLASSES[kinds[0] - 1]
    alike = next(group for group in GROUPS if name in group)
    others = [1 + CLASSES.index(other) for other in alike if other != name]
    if np.isin(others, kinds).any():
        return kinds
    return np.concatenate([kinds[:1], [rng.choice(others)], kinds[2:]])


def scene(rng: Rng, lookalikes: float = 0.0) -> Scene:
    """One image of the data set; `lookalikes`: probability that two of its classes are of the same of GROUPS."""
    short = int(rng.integers(SHORT_SIDE[0], SHORT_SIDE[1] + 1))
    height, width = (SIDE, short) if rng.random() < 0.5 else (short, SIDE)
    others = 1 + int(rng.choice(len(OTHERS), p=OTHERS))
    kinds = 1 + rng.choice(len(CLASSES), 1 + others, replace=False)
    if lookalikes and rng.random() < lookalikes:
        kinds = _with_lookalike(rng, kinds)
    classes = rng.permutation(np.concatenate([kinds, kinds[:1]]) if rng.random() < 0.5 else kinds)
    extents = rng.uniform(*EXTENT, len(classes)) * (1.0 if len(classes) < 4 else 0.85)

    canvas = Canvas(rng, height, width)
    canvas.clutter(int(rng.integers(1, 5)), (8, 32))
    looks = _object_looks(rng, canvas.look, len(classes))
    centres = _place(rng, height, width, extents)
    for cls, centre, extent, look in zip(classes, centres, extents, looks, strict=True):
        canvas.paint(outline(rng, int(cls)), centre, extent, look, int(cls))
    canvas.clutter(int(rng.integers(0, 3)), (8, 20))  # in front of the objects
    return Scene(*canvas.finish(), canvas.objects())


def pencil_drawing(image: np.ndarray) -> np.ndarray:
    """A drawing in greys of an image, both uint8 (H, W, 3) RGB."""
    grey, _ = cv2.pencilSketch(
        np.ascontiguousarray(image[..., ::-1]), sigma_s=20, sigma_r=0.1, shade_factor=0.06
    )
    return np.repeat(grey[..., None], 3, axis=2)


def single_object(rng: Rng, cls: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """One object of class `cls` (1..20), in a size that occurs in the data set, on a textured, cluttered background.

    The small backbone is pretrained on these images, which replace ImageNet.

    Args:
        side: of the square image, 32 to 128 pixels; larger objects are scaled to fit.

    Returns:
        Image uint8 (side, side, 3) RGB, labels uint8 (side, side): 0, `cls`, 255.
    """
    if not 1 <= cls <= len(CLASSES):
        raise ValueError(f"class must be 1..{len(CLASSES)}, got {cls}")
    if not 32 <= side <= len(_ROW):
        raise ValueError(f"side must be 32..{len(_ROW)}, got {side}")
    canvas = Canvas(rng, side, side)
    canvas.clutter(int(rng.integers(0, 4)), (10, 40))
    extent = rng.uniform(EXTENT[0] * 0.85, min(EXTENT[1], 0.95 * side))
    margin = 0.46 * extent
    centre = rng.uniform(margin, side - margin), rng.uniform(margin, side - margin)
    canvas.paint(outline(rng, cls), centre, extent, _object_looks(rng, canvas.look, 1)[0], cls)
    canvas.clutter(int(rng.integers(0, 2)), (8, 18))
    return canvas.finish()


def make_shapes(out: Path, shapes: params.Shapes) -> None:
    """Write the data set: VOC/ with JPEGImages/, SegmentationClassAug/ (palette PNG) and lists/, and objects.csv.

    Every image depends only on the seed, its list and its number in the list.
    """
    root, objects = out / "VOC", []
    for folder in ("JPEGImages", "SegmentationClassAug", "lists"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    counts = dict(zip(SPLITS, (shapes.train_images, shapes.val_images), strict=True))
    with Progress("shapes", total=sum(counts.values()), unit="image") as progress:
        for number, (split, count) in enumerate(counts.items()):
            names = [f"{split}_{index:06d}" for index in range(count)]
            for index, name in enumerate(names):
                made = scene(np.random.default_rng((shapes.seed, number, index)), shapes.lookalikes)
                quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
                image = pencil_drawing(made.image) if shapes.drawn else made.image
                jpeg = cv2.imencode(".jpg", image[..., ::-1], quality)[1]
                (root / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg.tobytes())
                save_mask(root / "SegmentationClassAug" / f"{name}.png", made.labels)
                objects += [(name, *each) for each in made.objects]
                progress.update(1)
            (root / "lists" / f"{split}.txt").write_text(
                "".join(f"{name}\n" for name in names), encoding="utf-8"
            )
    with replacing(out / OBJECTS) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("image", "class", "pixels", "visible"), *objects])


def _index(options: Mapping[str, Any], out: Path, _root: Path | None, **how: Any) -> dict[str, Any]:
    make_shapes(out, params.Shapes(**options["shapes"]))
    return index_voc(out / "VOC", classes=CLASSES, workers=how.get("workers", 1))


SOURCE = Source(CLASSES, _index, read_image, read_mask, groups=GROUPS)
