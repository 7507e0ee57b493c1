"""Segmentation scores (docs/method.md 8.2).

For each episode, the pixels of intersection and union of foreground and of background are counted on a scoring grid,
without unknown pixels (255). Sums over the episodes of a class give its IoU, whose mean over classes is mIoU; sums over
all episodes give FB-IoU. Values here are fractions; files hold percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from i2r.data.transforms import Placement, to_original

IGNORE = 255
EPSILON = 1e-10  # added to the denominator of an IoU, as published


class Counts(NamedTuple):
    """Pixels of one prediction against its target."""

    inter_fg: int
    union_fg: int
    inter_bg: int
    union_bg: int


# --- scoring grids ---------------------------------------------------------------------------------------


def pad_square(mask: Tensor) -> Tensor:
    """(H, W) -> (L, L), where L is the longer side, padded with 255 below or to the right."""
    height, width = mask.shape
    side = max(height, width)
    return F.pad(mask, (0, side - width, 0, side - height), value=IGNORE)


def squeeze(mask: Tensor, height: int, width: int) -> Tensor:
    """(S, S) -> (height, width) by nearest: the released code's target, which distorts images that are not square."""
    return F.interpolate(mask[None, None].float(), (height, width), mode="nearest")[0, 0].to(mask.dtype)


def target_on_grid(scoring: str, mask: Tensor, mask_s: Tensor, place: Placement) -> Tensor:
    """The target on the scoring grid.

    mask (H, W) at the original size, mask_s (S, S) in the evaluation view, both 0 | 1 | 255.

    Raises:
        ValueError: the grid is not `original`, `bam`, `released` or `size`.
    """
    match scoring:
        case "original":
            return mask
        case "bam":
            return pad_square(mask)
        case "released":
            return squeeze(mask_s, place.height, place.width)
        case "size":
            return mask_s
    raise ValueError(f"evaluate.scoring must be original, bam, released or size, got {scoring!r}")


def predict_on_grid(scoring: str, logits: Tensor, place: Placement) -> Tensor:
    """Class of each cell of the scoring grid.

    logits (C, S', S') of the evaluation view (usually S' = S) -> (H', W') int64. `original` cuts off the padding and
    resizes the rest to the original size; the published grids stretch the complete square, corners aligned.
    """
    if scoring == "size":
        return largest(logits)
    if scoring == "original":
        return largest(to_original(logits, place))
    side = max(place.height, place.width)
    grid = (side, side) if scoring == "bam" else (place.height, place.width)
    return largest(F.interpolate(logits[None], grid, mode="bilinear", align_corners=True)[0])


def largest(logits: Tensor) -> Tensor:
    """(C, H, W) -> the class with the largest logit, the first of equal ones, (H, W) int64.

    Of two classes by comparing them, which on a CPU takes far less time than argmax.
    """
    return (logits[1] > logits[0]).long() if len(logits) == 2 else logits.argmax(0)


# --- counting --------------------------------------------------------------------------------------------


def class_counts(
    prediction: Tensor, target: Tensor, classes: int, ignore: int = IGNORE
) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection, union and target pixels of each of `classes` classes, (classes,) int64 each.

    prediction and target: integer tensors of the same shape; pixels with target `ignore` are not counted.
    """
    keep = target != ignore
    prediction, target = prediction[keep].long(), target[keep].long()
    inter = torch.bincount(target[prediction == target], minlength=classes)[:classes]
    area = torch.bincount(prediction, minlength=classes)[:classes]
    truth = torch.bincount(target, minlength=classes)[:classes]
    return inter, area + truth - inter, truth


def binary_counts(prediction: Tensor, target: Tensor) -> Counts:
    """Counts of a 0/1 prediction against a 0 | 1 | 255 target of the same shape."""
    known, truth = target != IGNORE, target == 1
    marked = (prediction == 1) & known
    sums = ((marked & truth).sum(), (marked | truth).sum(), known.sum())
    both, either, all_known = torch.stack(sums).tolist()  # one transfer from a GPU
    return Counts(both, either, all_known - either, all_known - both)


# --- scores ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Scores as fractions. `iou` has the classes that have an episode; `miou` is their mean, NaN if there is none."""

    iou: dict[int, float]
    queries: dict[int, int]
    miou: float
    fb_iou: float


def class_sums(classes: Sequence[int], labels: Sequence[int], counts: np.ndarray) -> np.ndarray:
    """Sums over the episodes of each class: labels (E,), counts (E, 4) -> (len(classes), 4)."""
    labels = np.asarray(labels)
    return np.stack([counts[labels == c].sum(0) for c in classes]) if len(classes) else np.zeros((0, 4))


def score(classes: Sequence[int], labels: Sequence[int], counts: np.ndarray) -> Scores:
    """Scores over episodes.

    classes: over which the mean is taken; labels (E,): class of each episode; counts (E, 4): as `Counts`.
    A class without an episode is left out of the mean (the published code counts it as 0).
    """
    counts = np.asarray(counts, dtype=np.float64).reshape(-1, 4)
    queries = {c: int(np.sum(np.asarray(labels) == c)) for c in classes}
    sums = class_sums(classes, labels, counts)
    iou = {c: float(s[0] / (s[1] + EPSILON)) for c, s in zip(classes, sums, strict=True) if queries[c]}
    total = counts.sum(0)
    fb_iou = (total[0] / (total[1] + EPSILON) + total[2] / (total[3] + EPSILON)) / 2
    miou = float(np.mean(list(iou.values()))) if iou else float("nan")
    return Scores(iou, queries, miou, float(fb_iou))
