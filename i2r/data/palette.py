"""The colours of VOC's masks, which image viewers show for class ids."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


@cache
def voc_palette() -> list[int]:
    """256 colours as 768 numbers, computed from the bits of the class id."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.ravel().tolist()


def save_mask(path: Path, labels: np.ndarray) -> None:
    """Write uint8 (H, W) class ids as a palette PNG."""
    mask = Image.fromarray(labels, mode="P")
    mask.putpalette(voc_palette())
    mask.save(path)
