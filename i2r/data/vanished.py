"""Objects that vanish: classes of which an image has pixels, but none in its evaluation view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from i2r.data.pairs import in_processes
from i2r.data.placement import droppable, placed_mask
from i2r.progress import Progress

ReadMask = Callable[[str], np.ndarray]  # id -> (H, W), class ids and transforms.unknown


def vanished(
    index: Mapping[str, Any], mask: ReadMask, lists: Mapping[str, Any], size: int, workers: int = 1
) -> dict[str, list[str]]:
    """Class -> those images of its list in a fold of which nothing is left in the evaluation view of side `size`.

    Masks are read only where so few pixels could all be left out, in `workers` processes; the result does not depend
    on their number.

    Args:
        index: with `sizes`, see index_table.read_index.
        mask: reads the mask of an image; it is sent to the processes.
        lists: from lists.fold_lists.
    """
    few: dict[str, list[str]] = defaultdict(list)
    for part, split in (("train", "train"), ("test", "val")):
        for cls, names in lists[f"{part}_by_class"].items():
            for name in names:
                if index[split][name][cls] <= droppable(*index["sizes"][name], size):
                    few[name].append(cls)
    found: dict[str, list[str]] = defaultdict(list)
    with Progress(f"masks at {size} px", len(few), "mask") as progress:
        items = list(few.items())
        for (name, _), lost in zip(
            items, in_processes(partial(_lost, mask, size), items, workers), strict=True
        ):
            for cls in lost:
                found[cls].append(name)
            progress.update()
    return dict(found)


def _lost(mask: ReadMask, size: int, item: tuple[str, list[str]]) -> list[str]:
    """Those of the classes of an image that its evaluation view lacks."""
    name, classes = item
    left = set(np.unique(placed_mask(mask(name), size)).tolist())
    return [cls for cls in classes if int(cls) not in left]
