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
UNKNOWN = 255
CROP_DRAWS = 30
CROP_INSIDE = 0.85

_FILL = tuple(255 * value for value in MEAN)


def normalise(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) RGB to float32 (3, H, W), normalised by ImageNet's mean and standard deviation."""
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(255)
    return tensor.sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(STD)[:, None, None])


def to_image(view: Tensor) -> np.ndarray:
    """The inverse of normalise: (3, H, W) to uint8 (H, W, 3) RGB."""
    image = view.detach().float().cpu() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return image.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def binary(mask: Tensor, cls: int) -> Tensor:
    """A mask of class ids to that of one class: 1 the class, 0 everything else, 255 unknown."""
    return torch.where(mask == UNKNOWN, mask, (mask == cls).to(mask.dtype))


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    # Bilinear, as published; but it skips pixels when an image shrinks to less than half
    shrinks = 2 * height < image.shape[0] or 2 * width < image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _check(image: np.ndarray, mask: np.ndarray | None) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if mask is not None and (mask.dtype != np.uint8 or mask.shape != image.shape[:2]):
        raise ValueError(
            f"a mask must be uint8 {image.shape[:2]} like its image, got {mask.dtype} {mask.shape}"
        )


def train_view(
    image: np.ndarray,
    mask: np.ndarray,
    size: int,
    augment: params.Augment,
    rng: np.random.Generator,
    cls: int | None = None,
) -> tuple[Tensor, Tensor]:
    """A random view for training (docs/method.md 8.1): scale, rotation, blur, flip, crop, in this order.

    Padding is the mean colour, and unknown (255) in the mask. The scale is relative to the image's own size, as
    published, or with `augment.fit` to the size of the evaluation view, in which its longer side is `size`.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W), class ids and 255.
        size: S.
        rng: only source of randomness; the same state gives the same view.
        cls: the crop is redrawn, up to 30 times, until it holds 85 % of this class; None: the first crop is taken.

    Returns:
        float32 (3, S, S), normalised, and uint8 (S, S), class ids and 255.
    """
    _check(image, mask)
    scale = rng.uniform(*augment.scale) * (size / max(mask.shape) if augment.fit else 1.0)
    height, width = (max(1, round(scale * side)) for side in mask.shape)
    if (height, width) != mask.shape:
        image, mask = _resize(image, height, width), resize_mask(mask, height, width)
    if rng.random() < augment.rotate_p:
        angle = rng.uniform(-augment.rotate, augment.rotate)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
        image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=_FILL)
        mask = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=UNKNOWN)
    if rng.random() < augment.blur_p:
        image = cv2.GaussianBlur(image, (5, 5), 0)
    if rng.random() < augment.flip_p:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)

    missing_h, missing_w = max(size - height, 0), max(size - width, 0)
    if missing_h or missing_w:
        edges = (missing_h // 2, missing_h - missing_h // 2, missing_w // 2, missing_w - missing_w // 2)
        image = cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=_FILL)
        mask = cv2.copyMakeBorder(mask, *edges, cv2.BORDER_CONSTANT, value=UNKNOWN)
    whole = 0 if cls is None else int((mask == cls).sum())
    for _ in range(CROP_DRAWS):
        top = int(rng.integers(mask.shape[0] - size + 1))
        left = int(rng.integers(mask.shape[1] - size + 1))
        window = np.s_[top : top + size, left : left + size]
        if cls is None or (mask[window] == cls).sum() >= CROP_INSIDE * whole:
            break
    return normalise(image[window]), torch.from_numpy(np.ascontiguousarray(mask[window]))


def evaluation_view(
    image: np.ndarray, mask: np.ndarray | None, size: int
) -> tuple[Tensor, Tensor | None, Placement]:
    """The evaluation view (docs/method.md 8.2): the complete image in the top left corner of a square.

    Padding is black, and unknown (255) in the mask.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W), class ids and 255, or None.
        size: S.

    Returns:
        float32 (3, S, S), normalised; uint8 (S, S) or None; the image's placement.
    """
    _check(image, mask)
    place = placement(*image.shape[:2], size)
    square = np.zeros((size, size, 3), np.uint8)
    square[: place.inner_h, : place.inner_w] = _resize(image, place.inner_h, place.inner_w)
    if mask is None:
        return normalise(square), None, place
    labels = np.full((size, size), UNKNOWN, np.uint8)
    labels[: place.inner_h, : place.inner_w] = placed_mask(mask, size)
    return normalise(square), torch.from_numpy(labels), place


def to_original(maps: Tensor, place: Placement) -> Tensor:
    """Maps (C, S, S) of an evaluation view -> (C, height, width), without padding, at the image's original size.

    Corners are not aligned, because they were not when the image was resized.
    """
    inner = maps[None, :, : place.inner_h, : place.inner_w]
    return F.interpolate(inner, (place.height, place.width), mode="bilinear", align_corners=False)[0]
