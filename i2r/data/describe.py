"""What a data set holds: sizes, classes, areas, classes that stand together, and how often each is queried."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from i2r.config.data_set import SOURCES
from i2r.data.counts import differences, is_full
from i2r.data.episodes import expected_queries
from i2r.data.list_folder import RULES
from i2r.data.lists import fold_lists
from i2r.data.palette import voc_palette
from i2r.data.sources import open_source
from i2r.files import replacing

SAMPLES = "samples.png"  # of a data job
_SIDE, _LINE = 240, 30  # of a sample picture and of the text below it, pixels
_COLUMNS = 3  # of the sample pictures
QUANTILES = (0.1, 0.5, 0.9)  # of areas


class Class(NamedTuple):
    """A class of a data set.

    Attributes:
        images, large: {"train", "val"}: number of images that show it, and of those with the minimal area of it.
        areas: of its pixels in each image that shows it, percent of the image, (images,).
    """

    cls: int
    name: str
    images: dict[str, int]
    large: dict[str, int]
    areas: np.ndarray

    @property
    def quantiles(self) -> list[float]:
        """QUANTILES of its areas; empty if no image shows it."""
        return np.quantile(self.areas, QUANTILES).tolist() if len(self.areas) else []


def classes(index: dict[str, Any], min_area: int) -> list[Class]:
    """Every class of an index with `sizes`, see index_table.read_index."""
    pixels: dict[int, dict[str, list[int]]] = defaultdict(lambda: {"train": [], "val": []})
    areas: dict[int, list[float]] = defaultdict(list)
    for split in ("train", "val"):
        for image, shown in index[split].items():
            height, width = index["sizes"][image]
            for cls, count in shown.items():
                pixels[int(cls)][split].append(count)
                areas[int(cls)].append(100 * count / (height * width))
    found = []
    for cls, name in enumerate(index["classes"], start=1):
        images = {split: len(counts) for split, counts in pixels[cls].items()}
        large = {split: sum(c >= min_area for c in counts) for split, counts in pixels[cls].items()}
        found.append(Class(cls, name, images, large, np.array(areas[cls])))
    return found


def sizes(index: dict[str, Any]) -> str:
    """Number and sizes of the images, in a sentence."""
    known = np.array(list(index["sizes"].values()))
    low, median, high = (
        f"{w:.0f} x {h:.0f}" for h, w in (known.min(0), np.median(known, axis=0), known.max(0))
    )
    counts = " and ".join(
        f"{len(index[split])} {said}" for split, said in (("train", "training"), ("val", "validation"))
    )
    return f"{counts} images; width x height from {low} to {high} pixels, median {median}."


def together(index: dict[str, Any], most: int = 10) -> list[tuple[str, str, int]]:
    """The pairs of classes that most images show together: their names and the number of images."""
    pairs = Counter(
        pair
        for split in ("train", "val")
        for shown in index[split].values()
        for pair in combinations(sorted(map(int, shown)), 2)
    )
    names = index["classes"]
    return [(names[a - 1], names[b - 1], count) for (a, b), count in pairs.most_common(most)]


def queries(lists: dict[str, Any], episodes: int, shots: int, **how: Any) -> list[tuple[str, float]]:
    """Name of each scored class and its expected queries, most first; arguments as episodes.expected_queries."""
    found = expected_queries(lists, episodes, shots, **how)
    return [
        (lists["names"][cls - 1], count) for cls, count in sorted(found.items(), key=lambda item: -item[1])
    ]


def describe(index: dict[str, Any], min_area: int = 2048, episodes: int = 1000, shots: int = 1) -> str:
    """A description in Markdown of an index with `sizes`."""
    source = index["source"]
    number, folds = SOURCES[source].folds, open_source(source).folds
    parts = [f"# {source}\n\n{sizes(index)}\ndigest {index['digest']}"]
    parts += [_class_table(classes(index, min_area), min_area), _pairs(together(index))]
    for fold in range(number):
        how = RULES["bam"] | {"min_area": min_area, "folds": folds, "number": number}
        parts.append(_queries(fold_lists(index, fold, **how), episodes, shots))
    if is_full(index, source):
        wrong = differences(index, source)
        parts.append("## Published counts\n\n" + ("\n".join(f"- {text}" for text in wrong) or "All agree."))
    if bad := index.get("left_out"):
        parts.append("## Left out\n\n" + "\n".join(f"- {why}" for why in bad.values()))
    return "\n\n".join(parts) + "\n"


def _class_table(found: list[Class], min_area: int) -> str:
    lines = [
        "## Classes",
        "",
        f"Images with the class, in brackets with {min_area} pixels of it; median share of the image.",
        "",
        "| class | name | train | val | share |",
        "| --: | :-- | --: | --: | --: |",
    ]
    for item in found:
        cells = [f"{item.images[split]} ({item.large[split]})" for split in ("train", "val")]
        share = f"{item.quantiles[1]:.1f} %" if item.quantiles else ""
        lines.append(f"| {item.cls} | {item.name} | {cells[0]} | {cells[1]} | {share} |")
    return "\n".join(lines)


def _pairs(found: list[tuple[str, str, int]]) -> str:
    lines = [f"- {first} and {second}: {count} images" for first, second, count in found]
    return "## Classes in one image\n\n" + ("\n".join(lines) or "No image has two classes.")


def _queries(lists: dict[str, Any], episodes: int, shots: int) -> str:
    rows = queries(lists, episodes, shots)
    text = f"## Fold {lists['fold']}\n\n{len(lists['train'])} training and {len(lists['test'])} test images. "
    if not rows:
        return text + "No class has enough test images for an episode."
    top, most = rows[0]
    return (
        text
        + f"Expected queries in {episodes} episodes (protocol bam, {shots}-shot): {100 * most / episodes:.0f} % are "
        f"{top}.\n\n" + ", ".join(f"{name} {count:.1f}" for name, count in rows)
    )


def sample_pictures(index: dict[str, Any], root: Path, path: Path, images: int = 12) -> None:
    """Write one picture with images of the data set, evenly from its lists, each beside itself with its mask and above
    the names of its classes."""
    source = open_source(index["source"])
    shown = {name: classes for split in ("train", "val") for name, classes in index[split].items()}
    names = list(shown)
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, min(images, len(names))).astype(int)]
    colours = np.array(voc_palette(), np.uint8).reshape(256, 3)
    rows = max(1, -(-len(chosen) // _COLUMNS))
    sheet = Image.new("RGB", (2 * _COLUMNS * _SIDE, rows * (_SIDE + _LINE)), "white")
    text = ImageDraw.Draw(sheet)
    for place, name in enumerate(chosen):
        image, mask = source.image(root, name), source.mask(root, name)
        seen = np.where((mask > 0)[..., None], image // 2 + colours[mask] // 2, image)
        row, column = divmod(place, _COLUMNS)
        left, top = 2 * column * _SIDE, row * (_SIDE + _LINE)
        for side, picture in enumerate((image, seen)):
            tile = ImageOps.contain(Image.fromarray(picture), (_SIDE, _SIDE))
            sheet.paste(tile, (left + side * _SIDE, top))
        said = ", ".join(index["classes"][int(cls) - 1] for cls in shown[name])
        text.text((left + 2, top + tile.height + 2), said[:48], fill="black", font_size=18)
    with replacing(path) as temporary:
        sheet.save(temporary)
