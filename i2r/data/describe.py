"""What a data set holds: sizes, classes, areas, classes that stand together, and how often each is queried."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from i2r.config.schema import SOURCES
from i2r.data.counts import differences, is_full
from i2r.data.episodes import expected_queries
from i2r.data.list_folder import RULES
from i2r.data.lists import fold_lists
from i2r.data.palette import voc_palette
from i2r.data.sources import open_source

_SIDE = 240  # of a sample picture, pixels


def describe(index: dict[str, Any], min_area: int = 2048, episodes: int = 1000, shots: int = 1) -> str:
    """A description in Markdown."""
    source = open_source(index["source"])
    parts = [_images(index), _classes(index, min_area), _together(index)]
    number = SOURCES[index["source"]].folds
    for fold in range(number):
        how = RULES["bam"] | {"min_area": min_area, "folds": source.folds, "number": number}
        parts.append(_queries(fold_lists(index, fold, **how), episodes, shots))
    if is_full(index, index["source"]):
        wrong = differences(index, index["source"])
        parts.append("## Published counts\n\n" + ("\n".join(f"- {text}" for text in wrong) or "All agree."))
    if bad := index.get("left_out"):
        parts.append("## Left out\n\n" + "\n".join(f"- {why}" for why in bad.values()))
    return "\n\n".join(parts) + "\n"


def _images(index: dict[str, Any]) -> str:
    sizes = np.array(list(index["sizes"].values()))
    low, median, high = (
        f"{w:.0f} x {h:.0f}" for h, w in (sizes.min(0), np.median(sizes, axis=0), sizes.max(0))
    )
    counts = ", ".join(f"{len(index[split])} {split}" for split in ("train", "val"))
    return (
        f"# {index['source']}\n\n{counts} images; width x height from {low} to {high}, median {median}.\n"
        f"digest {index['digest']}"
    )


def _classes(index: dict[str, Any], min_area: int) -> str:
    lines = [
        "## Classes",
        "",
        f"Images with the class, in brackets with {min_area} pixels of it; median share of the image.",
        "",
        "| class | name | train | val | share |",
        "| --: | :-- | --: | --: | --: |",
    ]
    for cls, name in enumerate(index["classes"], start=1):
        cells, shares = [], []
        for split in ("train", "val"):
            areas = {image: pixels[str(cls)] for image, pixels in index[split].items() if str(cls) in pixels}
            cells.append(f"{len(areas)} ({sum(area >= min_area for area in areas.values())})")
            shares += [area / np.prod(index["sizes"][image]) for image, area in areas.items()]
        share = f"{100 * np.median(shares):.1f} %" if shares else ""
        lines.append(f"| {cls} | {name} | {cells[0]} | {cells[1]} | {share} |")
    return "\n".join(lines)


def _together(index: dict[str, Any], shown: int = 10) -> str:
    pairs = Counter(
        pair
        for split in ("train", "val")
        for pixels in index[split].values()
        for pair in combinations(sorted(map(int, pixels)), 2)
    )
    names = index["classes"]
    lines = [
        f"- {names[a - 1]} and {names[b - 1]}: {count} images" for (a, b), count in pairs.most_common(shown)
    ]
    return "## Classes in one image\n\n" + ("\n".join(lines) or "No image has two classes.")


def _queries(lists: dict[str, Any], episodes: int, shots: int) -> str:
    found = expected_queries(lists, episodes, shots)
    names = lists["names"]
    text = f"## Fold {lists['fold']}\n\n{len(lists['train'])} training and {len(lists['test'])} test images. "
    if not found:
        return text + "No class has enough test images for an episode."
    rows = sorted(found.items(), key=lambda item: -item[1])
    top, share = names[rows[0][0] - 1], 100 * rows[0][1] / max(sum(found.values()), 1e-9)
    queries = ", ".join(f"{names[cls - 1]} {count:.1f}" for cls, count in rows)
    return (
        text
        + f"Expected queries in {episodes} episodes (protocol bam, {shots}-shot): {share:.0f} % are {top}.\n\n"
        f"{queries}"
    )


def sample_pictures(index: dict[str, Any], root: Path, path: Path, images: int = 12) -> None:
    """Write one picture with images of the data set, evenly from its lists, each beside itself with its mask."""
    source = open_source(index["source"])
    names = [*index["train"], *index["val"]]
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, min(images, len(names))).astype(int)]
    colours = np.array(voc_palette(), np.uint8).reshape(256, 3)
    columns = 3
    sheet = Image.new("RGB", (columns * 2 * _SIDE, -(-len(chosen) // columns) * _SIDE), "white")
    for place, name in enumerate(chosen):
        image, mask = source.image(root, name), source.mask(root, name)
        seen = np.where((mask > 0)[..., None], image // 2 + colours[mask] // 2, image)
        row, column = divmod(place, columns)
        for side, picture in enumerate((image, seen)):
            tile = Image.fromarray(picture)
            tile.thumbnail((_SIDE, _SIDE))
            sheet.paste(tile, ((2 * column + side) * _SIDE, row * _SIDE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
