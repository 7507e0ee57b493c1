"""Objects pasted into training queries, so that an image shows two classes and only the support says which is meant.

Only the pixels of the object's own class are taken from its image.
"""

from __future__ import annotations

import cv2
import numpy as np

from i2r.data.dataset import Dataset
from i2r.data.episodes import Pasted
from i2r.data.transforms import DRAWS, resize, unknown

SIDES = (0.3, 0.7)  # longer side of the pasted object, relative to the shorter side of the image
LARGEST = 2.0  # scale of an object, at most; a larger one would be blurred
KEPT = 0.5  # share of each object of the image that stays visible, if a place is found


def image_and_mask(
    dataset: Dataset, name: str, pasted: Pasted | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and mask (H, W) of class ids, with what is pasted into them."""
    image, mask = dataset.image(name), dataset.mask(name)
    if pasted is None:
        return image, mask
    donor = dataset.image(pasted.donor), dataset.mask(pasted.donor)
    return paste(image, mask, *donor, pasted.cls, np.random.default_rng(pasted.seed))


def paste(
    image: np.ndarray,
    mask: np.ndarray,
    donor: np.ndarray,
    donor_mask: np.ndarray,
    cls: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A copy of the image with the donor's pixels of class `cls`, scaled, in a random place and with soft edges.

    What they cover is of class `cls` in the mask. Size and place are redrawn, up to 30 times, until KEPT of each class
    of the image is left; then those that leave most of the class with the smallest share are taken.

    Args:
        image: uint8 (H, W, 3). mask: (H, W), class ids and `unknown`.
        donor, donor_mask: the same of another image.

    Raises:
        ValueError: the donor has no pixel of the class.
    """
    box = _box(donor_mask == cls)
    best, most = None, -1.0
    for _ in range(DRAWS):
        alpha, at = _placed((donor_mask[box] == cls).astype(np.float32), mask.shape, rng)
        left = _left(mask, alpha > 0, at)
        if left > most:
            best, most = (alpha, at), left
        if most >= KEPT:
            break
    alpha, at = best
    image, mask = image.copy(), mask.copy()
    mask[at][alpha > 0] = cls
    object_ = resize(donor[box], *alpha.shape)
    soft = alpha[..., None]
    image[at] = np.rint(soft * object_ + (1 - soft) * image[at]).astype(np.uint8)
    return image, mask


def _box(own: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns that hold all pixels of the object."""
    if not own.any():
        raise ValueError("the donor has no pixel of the class that is to be pasted")
    found = (np.flatnonzero(own.any(axis)) for axis in (1, 0))
    return tuple(slice(int(ends[0]), int(ends[-1]) + 1) for ends in found)


def _placed(
    shape: np.ndarray, within: tuple[int, ...], rng: np.random.Generator
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The opacity of the object at a random size, 1 inside and less at its edges, and its place in the image."""
    scale = min(rng.uniform(*SIDES) * min(within) / max(shape.shape), LARGEST)
    height, width = (max(1, round(scale * side)) for side in shape.shape)
    inside = resize(shape, height, width)
    blurred = cv2.GaussianBlur(inside, (5, 5), 0, borderType=cv2.BORDER_CONSTANT)
    alpha = np.where(inside >= 0.5, np.clip(2 * blurred - 1, 0.4, 1), 0).astype(np.float32)
    top, left = (int(rng.integers(whole - side + 1)) for whole, side in zip(within, alpha.shape, strict=True))
    return alpha, (slice(top, top + height), slice(left, left + width))


def _left(mask: np.ndarray, covered: np.ndarray, at: tuple[slice, slice]) -> float:
    """The smallest share of a class of the mask that is left."""
    known = [int(cls) for cls in np.unique(mask) if cls not in (0, unknown(mask))]
    hidden = mask[at][covered]
    return min((1 - np.sum(hidden == cls) / np.sum(mask == cls) for cls in known), default=1.0)
