"""From an image and its mask to a network input of S x S pixels, in training and in evaluation."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from i2r.config import schema as params
from i2r.data.placement import Placement, placed_mask, placement, resize_mask

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB, for values in 0..1
STD = (0.229, 0.224, 0.225)
UNKNOWN = 255  # in masks of one class, and of class ids in uint8
DRAWS = 30  # of a crop or a view, at most
CROP_INSIDE = 0.85

_FILL = tuple(255 * value for value in MEAN)
# Channel and value 0..255 -> normalised value, (3, 256) float32
_NORMALISED = (
    (torch.arange(256).float().div_(255) - torch.tensor(MEAN)[:, None])
    .div_(torch.tensor(STD)[:, None])
    .numpy()
)


def normalise(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) RGB to float32 (3, H, W), normalised by ImageNet's mean and standard deviation."""
    channels = np.empty((3, *image.shape[:2]), np.float32)
    for number, (table, channel) in enumerate(zip(_NORMALISED, channels, strict=True)):
        cv2.LUT(cv2.extractChannel(image, number), table, channel)
    return torch.from_numpy(channels)


def normalised(images: Tensor) -> Tensor:
    """uint8 (..., H, W, 3) RGB to float32 (..., 3, H, W) on the same device; the numbers of `normalise`."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
    return images.movedim(-1, -3).contiguous().float().div_(255).sub_(mean).div_(std)


def to_image(view: Tensor) -> np.ndarray:
    """The inverse of normalise: (3, H, W) to uint8 (H, W, 3) RGB."""
    image = view.detach().float().cpu() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return image.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def unknown(mask: np.ndarray | Tensor) -> int:
    """The value of unknown pixels in a mask of class ids: 255, but -1 in int16, where 255 can be a class."""
    return -1 if mask.dtype.itemsize == 2 else UNKNOWN


def binary(mask: Tensor, cls: int) -> Tensor:
    """A mask of class ids to that of one class, uint8: 1 the class, 0 everything else, 255 unknown."""
    return torch.where(mask == unknown(mask), UNKNOWN, (mask == cls).to(torch.uint8))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (H, W, ...) at another size."""
    # Bilinear, as published; but it skips pixels when an image shrinks to less than half
    shrinks = 2 * height < image.shape[0] or 2 * width < image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _check(image: np.ndarray, mask: np.ndarray | None) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if mask is not None and (mask.dtype not in (np.uint8, np.int16) or mask.shape != image.shape[:2]):
        raise ValueError(
            f"a mask must be uint8 or int16 {image.shape[:2]} like its image, got {mask.dtype} {mask.shape}"
        )


def train_pixels(
    image: np.ndarray,
    mask: np.ndarray,
    size: int,
    augment: params.Augment,
    rng: np.random.Generator,
    cls: int | None = None,
) -> tuple[Tensor, Tensor]:
    """A random view for training (docs/method.md 8.1): scale, rotation, blur, flip, crop, in this order.

    Padding is the mean colour, and unknown in the mask. The scale is relative to the image's own size, as
    published, or with `augment.fit` to the size of the evaluation view, in which its longer side is `size`.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 or int16 (H, W), class ids and `unknown`.
        size: S.
        rng: only source of randomness; the same state gives the same view.
        cls: the crop is redrawn, up to 30 times, until it holds 85 % of this class, and the complete view, as often,
            until anything of it is left; None: the first crop is taken.

    Returns:
        uint8 (S, S, 3), to be normalised where it is used, which makes a quarter of the bytes to pass between processes
        and to a device; and the mask (S, S), class ids and `unknown`.
    """
    _check(image, mask)
    for _ in range(DRAWS):
        turned, labels = _distorted(image, mask, size, augment, rng)
        top, left = _window(labels, size, rng, cls)
        labels = labels[top : top + size, left : left + size]
        if cls is None or (labels == cls).any():
            break
    return torch.from_numpy(_cut(turned, top, left, size)), torch.from_numpy(np.ascontiguousarray(labels))


def train_view(
    image: np.ndarray,
    mask: np.ndarray,
    size: int,
    augment: params.Augment,
    rng: np.random.Generator,
    cls: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`train_pixels`, with the image normalised: float32 (3, S, S)."""
    pixels, labels = train_pixels(image, mask, size, augment, rng, cls)
    return normalise(pixels.numpy()), labels


def _distorted(
    image: np.ndarray, mask: np.ndarray, size: int, augment: params.Augment, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled, rotated, blurred and flipped image; and its mask, padded to at least S x S."""
    scale = rng.uniform(*augment.scale) * (size / max(mask.shape) if augment.fit else 1.0)
    height, width = (max(1, round(scale * side)) for side in mask.shape)
    if (height, width) != mask.shape:
        image, mask = resize(image, height, width), resize_mask(mask, height, width)
    if rng.random() < augment.rotate_p:
        angle = rng.uniform(-augment.rotate, augment.rotate)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
        image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=_FILL)
        mask = cv2.warpAffine(
            mask, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=unknown(mask)
        )
    if rng.random() < augment.blur_p:
        image = cv2.GaussianBlur(image, (5, 5), 0)
    if rng.random() < augment.flip_p:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    edges = (*_padding(height, size), *_padding(width, size))
    if any(edges):
        mask = cv2.copyMakeBorder(mask, *edges, cv2.BORDER_CONSTANT, value=unknown(mask))
    return image, mask


def _padding(side: int, size: int) -> tuple[int, int]:
    """Padding before and after a side, so that it has at least `size` pixels."""
    missing = max(size - side, 0)
    return missing // 2, missing - missing // 2


def _window(labels: np.ndarray, size: int, rng: np.random.Generator, cls: int | None) -> tuple[int, int]:
    """Top and left of a random crop of a padded mask; with a class, of one that holds most of it, if one is drawn."""
    own = None if cls is None else (labels == cls).view(np.uint8)
    whole = 0 if own is None else cv2.countNonZero(own)
    for _ in range(DRAWS):
        top, left = (int(rng.integers(side - size + 1)) for side in labels.shape)
        if own is None or cv2.countNonZero(own[top : top + size, left : left + size]) >= CROP_INSIDE * whole:
            break
    return top, left


def _cut(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """The crop (S, S, 3) of an image; where the image is smaller than S, it is in the middle of the mean colour."""
    part = image[top : top + size, left : left + size]
    if part.shape[:2] == (size, size):
        return np.ascontiguousarray(part)
    edges = (*_padding(part.shape[0], size), *_padding(part.shape[1], size))
    return cv2.copyMakeBorder(part, *edges, cv2.BORDER_CONSTANT, value=_FILL)


def evaluation_view(
    image: np.ndarray, mask: np.ndarray | None, size: int
) -> tuple[Tensor, Tensor | None, Placement]:
    """The evaluation view (docs/method.md 8.2): the complete image in the top left corner of a square.

    Padding is black, and unknown in the mask.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 or int16 (H, W), class ids and `unknown`, or None.
        size: S.

    Returns:
        float32 (3, S, S), normalised; the mask (S, S) or None; the image's placement.
    """
    _check(image, mask)
    place = placement(*image.shape[:2], size)
    square = np.zeros((size, size, 3), np.uint8)
    square[: place.inner_h, : place.inner_w] = resize(image, place.inner_h, place.inner_w)
    if mask is None:
        return normalise(square), None, place
    labels = np.full((size, size), unknown(mask), mask.dtype)
    labels[: place.inner_h, : place.inner_w] = placed_mask(mask, size)
    return normalise(square), torch.from_numpy(labels), place


def to_original(maps: Tensor, place: Placement) -> Tensor:
    """Maps (C, S, S) of an evaluation view -> (C, height, width), without padding, at the image's original size.

    Corners are not aligned, because they were not when the image was resized.
    """
    inner = maps[None, :, : place.inner_h, : place.inner_w]
    return F.interpolate(inner, (place.height, place.width), mode="bilinear", align_corners=False)[0]
