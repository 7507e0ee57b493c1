"""Where an image stands in its evaluation view, and what is left of its mask there. Needs no torch."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Placement(NamedTuple):
    """Placement of an image in its evaluation view: its original size, and the size of the part that it fills."""

    height: int
    width: int
    inner_h: int
    inner_w: int


def placement(height: int, width: int, size: int) -> Placement:
    """Placement of an image of this size: longer side scaled to `size`, both sides rounded down to multiples of 8."""
    longer = max(height, width)
    inner = (max(8, side * size // longer // 8 * 8) for side in (height, width))
    return Placement(height, width, *inner)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask at another size, by nearest: reducing it leaves out whole rows and columns."""
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)


def placed_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """The mask (H, W) of an image as it is in the evaluation view of side `size`, without the padding."""
    place = placement(*mask.shape, size)
    return resize_mask(mask, place.inner_h, place.inner_w)


def droppable(height: int, width: int, size: int) -> int:
    """The most pixels of a mask that its evaluation view can leave out; 0 if it is not reduced."""
    place = placement(height, width, size)
    return height * width - min(height, place.inner_h) * min(width, place.inner_w)
