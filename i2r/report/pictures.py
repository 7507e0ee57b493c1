"""Pictures of episodes, as in the paper's Figure 3.

A figure is one mosaic with text around it, because matplotlib would take seconds for sixty axes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from i2r.report.figures import ORANGE, SKY, STYLE, gap

CELL, SPACE = 190, 8  # pixels of a picture and between pictures
DPI = 130
NAMES = ("query", "support", "support_mask", "truth", "prediction", "prior", "cam")


def read_pictures(path: Path) -> list[dict[str, Any]]:
    """The episodes in a pictures.npz: NAMES (None if missing) and meta (class, name, ids, iou)."""
    with np.load(path) as arrays:
        numbers = sorted(int(name.removeprefix("meta_")) for name in arrays.files if name.startswith("meta_"))
        return [
            {name: arrays[f"{name}_{i}"] if f"{name}_{i}" in arrays.files else None for name in NAMES}
            | {"meta": json.loads(str(arrays[f"meta_{i}"]))}
            for i in numbers
        ]


def first_shot(array: np.ndarray, dimensions: int) -> np.ndarray:
    """The first of K supports if there are several: (K, ...) -> (...)."""
    return array[0] if array.ndim > dimensions else array


# --- one picture: arrays (H, W, ...) in, (CELL, CELL, 3) in 0..1 out -----------------------------------------


def fit(image: np.ndarray) -> np.ndarray:
    """An image or map, resized to a cell."""
    how = cv2.INTER_AREA if image.shape[0] > CELL else cv2.INTER_LINEAR
    image = cv2.resize(image.astype(np.float32), (CELL, CELL), interpolation=how)
    return image / 255 if image.ndim == 3 else image


def outlined(image: np.ndarray, mask: np.ndarray, colour: str) -> np.ndarray:
    """The image with the outline of a mask (== 1), which has dark edges to be visible on any image."""
    on = (fit((mask == 1).astype(np.float32)) > 0.5).astype(np.uint8)
    borders, _ = cv2.findContours(on, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    canvas = (255 * fit(image)).astype(np.uint8)
    for shade, width in (((0, 0, 0), 5), (tuple(255 * c for c in to_rgb(colour)), 2)):
        cv2.drawContours(canvas, borders, -1, shade, width, cv2.LINE_AA)
    return canvas / 255


def tinted(image: np.ndarray, mask: np.ndarray, colour: str) -> np.ndarray:
    """The darkened image, with the mask (== 1) in a colour."""
    share = fit((mask == 1).astype(np.float32))[..., None]
    image = fit(image)
    return (1 - share) * 0.55 * image + share * (0.45 * image + 0.55 * np.array(to_rgb(colour)))


def heated(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map of values in 0..1 as colours over the grey image."""
    grey = fit(image).mean(axis=2, keepdims=True)
    return 0.28 * grey + 0.72 * colormaps["inferno"](np.clip(fit(values), 0, 1))[..., :3]


def supported(episode: dict[str, Any]) -> np.ndarray:
    return outlined(first_shot(episode["support"], 3), first_shot(episode["support_mask"], 2), ORANGE)


# --- figures -----------------------------------------------------------------------------------------------


def mosaic(
    cells: Sequence[Sequence[np.ndarray | None]],
    columns: Sequence[str],
    rows: Sequence[str],
    ious: dict[tuple[int, int], float],
    path: Path,
) -> Path:
    """Write a mosaic of cells (None: empty) with titles of columns and rows; `ious` (percent) are printed on cells."""
    step = CELL + SPACE
    canvas = np.ones((len(cells) * step - SPACE, len(columns) * step - SPACE, 3))
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            if cell is not None:
                canvas[y * step : y * step + CELL, x * step : x * step + CELL] = cell
    left = 14 + 11 * max(len(line) for name in rows for line in name.split("\n"))
    top = 14 + 22 * (1 + max(name.count("\n") for name in columns))
    height, width = canvas.shape[0] + top, canvas.shape[1] + left
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        axis = figure.add_axes((left / width, 0, canvas.shape[1] / width, canvas.shape[0] / height))
        axis.set(xlim=(0, canvas.shape[1]), ylim=(canvas.shape[0], 0))
        axis.set_axis_off()
        figure.figimage((255 * np.clip(canvas, 0, 1)).astype(np.uint8), left, 0, zorder=-1)
        for x, name in enumerate(columns):
            axis.text(x * step + CELL / 2, -8, name, ha="center", va="bottom", fontsize=9.5)
        for y, name in enumerate(rows):
            axis.text(-9, y * step + CELL / 2, name, ha="right", va="center", fontsize=9.5)
        for (y, x), iou in ious.items():
            box = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 1.8}
            at = (x * step + 7, y * step + CELL - 7)
            axis.text(*at, f"IoU {iou:.1f}", fontsize=8, color="white", va="bottom", bbox=box)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(
            path, dpi=DPI, metadata={"Software": None}, facecolor="white", pil_kwargs={"compress_level": 4}
        )
        plt.close(figure)
    return path


def row_name(episode: dict[str, Any]) -> str:
    return str(episode["meta"]["name"]).replace("_", " ")


def episode_figure(pictures: Path, path: Path, rows: int = 12) -> Path:
    """Episodes of one evaluation as rows; as columns support with its mask, query, CAM and prior (if the method has
    them), prediction with its IoU, and ground truth."""
    episodes = read_pictures(pictures)[:rows]
    if not episodes:
        return gap("the evaluation kept no episode", path)
    kept = {"CAM": "cam", "prior": "prior"}
    maps = [name for name, key in kept.items() if any(episode[key] is not None for episode in episodes)]
    columns = ["support", "query", *maps, "prediction", "ground truth"]
    cells, ious = [], {}
    for y, episode in enumerate(episodes):
        query = episode["query"]
        found = {name: episode[kept[name]] for name in maps if episode[kept[name]] is not None}
        shown = {name: heated(query, first_shot(values, 2)) for name, values in found.items()}
        shown |= {"support": supported(episode), "query": fit(query)}
        shown["prediction"] = tinted(query, episode["prediction"], SKY)
        shown["ground truth"] = tinted(query, episode["truth"], ORANGE)
        cells.append([shown.get(name) for name in columns])
        if (iou := episode["meta"].get("iou")) is not None:
            ious[y, columns.index("prediction")] = iou
    return mosaic(cells, columns, [row_name(e) for e in episodes], ious, path)


def comparison_figure(pictures: Mapping[str, Path], path: Path, rows: int = 12) -> Path:
    """The same episodes with several methods: support, query, each method's prediction with IoU, ground truth.

    pictures: label of a method -> its pictures.npz. Only episodes that every method kept are shown.
    """
    read = {m: {episode_id(e): e for e in read_pictures(file)} for m, file in pictures.items()}
    first = next(iter(read.values()), {})
    ids = [i for i in first if all(i in kept for kept in read.values())][:rows]
    if not ids:
        return gap("the methods have no kept episode in common", path)
    columns = ["support", "query", *("\n".join(wrap(label, 22)) for label in read), "ground truth"]
    cells, ious = [], {}
    for y, number in enumerate(ids):
        episode = first[number]
        predictions = [tinted(e[number]["query"], e[number]["prediction"], SKY) for e in read.values()]
        truth = tinted(episode["query"], episode["truth"], ORANGE)
        cells.append([supported(episode), fit(episode["query"]), *predictions, truth])
        found = [kept[number]["meta"].get("iou") for kept in read.values()]
        ious |= {(y, x): iou for x, iou in enumerate(found, 2) if iou is not None}
    return mosaic(cells, columns, [row_name(first[i]) for i in ids], ious, path)


def episode_id(episode: dict[str, Any]) -> tuple[str, str, str]:
    """Class, query and supports, which identify an episode across methods."""
    meta = episode["meta"]
    return str(meta["class"]), str(meta["query"]), str(meta["supports"])


def prediction_figure(
    query: np.ndarray,
    supports: Sequence[tuple[np.ndarray, np.ndarray]],
    found: Mapping[str, np.ndarray],
    path: Path,
) -> Path:
    """One prediction: supports with their masks, query, CAM of the first support and prior (if there are any), and
    prediction, each padded to a square.

    Args:
        query: (H, W, 3) uint8. supports: K of (H, W, 3) uint8 and (H, W) with 1 on the object.
        found: mask (H, W) and, for networks that have them, prior (H, W) and cam (K, H, W).
    """
    image = squared(query)
    shown = {
        f"support {k}" if len(supports) > 1 else "support": outlined(squared(support), squared(mask), ORANGE)
        for k, (support, mask) in enumerate(supports, start=1)
    }
    shown["query"] = fit(image)
    if "cam" in found:
        shown["CAM"] = heated(image, squared(found["cam"][0]))
    if "prior" in found:
        shown["prior"] = heated(image, squared(found["prior"]))
    shown["prediction"] = tinted(image, squared(found["mask"]), SKY)
    return mosaic([list(shown.values())], list(shown), [""], {}, path)


def squared(array: np.ndarray) -> np.ndarray:
    """(H, W, ...) centred in a square of zeros (L, L, ...), where L is the longer side."""
    height, width = array.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, *array.shape[2:]), array.dtype)
    square[top : top + height, left : left + width] = array
    return square
