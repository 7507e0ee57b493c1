"""Scores of segmentation and of prior maps (docs/method.md 8.2 and 3.4).

One rule of counting for every method: per episode the pixels of intersection and union of foreground and of
background on a scoring grid, unknown pixels (255) left out; sums per class give an IoU per class, their mean is
mIoU; sums over all episodes give FB-IoU. Values are fractions here; files hold percent.
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
EPSILON = 1e-10  # in the denominator of an IoU, as published
BINS = 1024  # of a prior's histogram: thresholds and average precision are exact to 1 / BINS


class Counts(NamedTuple):
    """Pixels of one prediction against its target."""

    inter_fg: int
    union_fg: int
    inter_bg: int
    union_bg: int


# --- scoring grids ---------------------------------------------------------------------------------------


def pad_square(mask: Tensor) -> Tensor:
    """(H, W) -> (L, L), L the longer side, 255 below or to the right."""
    height, width = mask.shape
    side = max(height, width)
    return F.pad(mask, (0, side - width, 0, side - height), value=IGNORE)


def squeeze(mask: Tensor, height: int, width: int) -> Tensor:
    """(S, S) -> (height, width) by nearest: the released code's target, which distorts what is not square."""
    return F.interpolate(mask[None, None].float(), (height, width), mode="nearest")[0, 0].to(mask.dtype)


def target_on_grid(scoring: str, mask: Tensor, mask_s: Tensor, place: Placement) -> Tensor:
    """The target on the scoring grid.

    mask (H, W) at the original size, mask_s (S, S) as the network's square holds it, both 0 | 1 | 255.

    Raises:
        ValueError: for a grid that is not `original`, `bam`, `released` or `size`.
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
    """Class of every cell of the scoring grid.

    logits (C, S', S') of the network's square (S' = S as a rule) -> (H', W') int64. `original` cuts the padding
    off and resizes what is left to the true size; the published grids stretch the whole square, corners aligned.
    """
    if scoring == "size":
        return logits.argmax(0)
    if scoring == "original":
        return to_original(logits, place).argmax(0)
    side = max(place.height, place.width)
    grid = (side, side) if scoring == "bam" else (place.height, place.width)
    return F.interpolate(logits[None], grid, mode="bilinear", align_corners=True)[0].argmax(0)


# --- counting --------------------------------------------------------------------------------------------


def class_counts(prediction: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection, union and target pixels of each of `classes` classes, (classes,) int64 each.

    prediction and target: integer tensors of one shape; pixels whose target is 255 count nowhere.
    """
    keep = target != IGNORE
    prediction, target = prediction[keep].long(), target[keep].long()
    inter = torch.bincount(target[prediction == target], minlength=classes)[:classes]
    area = torch.bincount(prediction, minlength=classes)[:classes]
    truth = torch.bincount(target, minlength=classes)[:classes]
    return inter, area + truth - inter, truth


def binary_counts(prediction: Tensor, target: Tensor) -> Counts:
    """Counts of a 0/1 prediction against a 0 | 1 | 255 target of the same shape."""
    inter, union, _ = class_counts(prediction, target, 2)
    return Counts(int(inter[1]), int(union[1]), int(inter[0]), int(union[0]))


# --- scores ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Fractions. `iou` holds a class only if it had an episode; `miou` is their mean, NaN where there is none."""

    iou: dict[int, float]
    queries: dict[int, int]
    miou: float
    fb_iou: float


def class_sums(classes: Sequence[int], labels: Sequence[int], counts: np.ndarray) -> np.ndarray:
    """Sums over each class's episodes: labels (E,), counts (E, 4) -> (len(classes), 4)."""
    labels = np.asarray(labels)
    return np.stack([counts[labels == c].sum(0) for c in classes]) if len(classes) else np.zeros((0, 4))


def score(classes: Sequence[int], labels: Sequence[int], counts: np.ndarray) -> Scores:
    """Scores of episodes.

    classes: those that the mean is over; labels (E,) the class of each episode; counts (E, 4) as `Counts`.
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


def bootstrap(
    classes: Sequence[int],
    labels: Sequence[int],
    counts: np.ndarray,
    times: int,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of mIoU over resamplings of the episodes, class sums computed anew in each.

    Arguments as in `score`; the interval holds `level` of `times` resamplings, seeded by `seed`. A resampling that
    lacks a class takes the mean of the others. It speaks of the choice of episodes, not of training seeds.
    """
    labels, counts = np.asarray(labels), np.asarray(counts, dtype=np.float64).reshape(-1, 4)
    if not len(labels):
        return float("nan"), float("nan")
    # how often each episode is drawn, instead of drawing indices: (times, E)
    drawn = np.random.default_rng(seed).multinomial(
        len(labels), np.full(len(labels), 1 / len(labels)), size=times
    )
    ious = []
    for c in classes:
        own = labels == c
        inter, union = drawn[:, own] @ counts[own, 0], drawn[:, own] @ counts[own, 1]
        ious.append(np.where(drawn[:, own].sum(1) > 0, inter / (union + EPSILON), np.nan))
    present = np.stack(ious)  # (classes, times)
    present = present[~np.isnan(present).all(1)]
    low, high = np.quantile(np.nanmean(present, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# --- priors ----------------------------------------------------------------------------------------------


def histogram(prior: Tensor, target: Tensor) -> Tensor:
    """Pixels of background and foreground by value of the prior: (2, BINS) int64.

    prior (H, W) in 0..1, target (H, W) 0 | 1 | 255; 255 is left out. Bin k holds k/BINS <= value < (k+1)/BINS, the
    last one 1 as well.
    """
    keep = target != IGNORE
    index = (prior[keep].float() * BINS).long().clamp_(0, BINS - 1)
    return torch.bincount(index + BINS * (target[keep] == 1), minlength=2 * BINS).view(2, BINS).cpu()


def average_precision(hist: Tensor) -> float:
    """Sum over thresholds of (recall gained) * precision, from a histogram (2, BINS); NaN without foreground.

    Values of one bin count as equal, so the result is exact for priors rounded down to 1 / BINS.
    """
    above = hist.double().flip(1).cumsum(1)  # (2, BINS): pixels at or above each threshold, highest first
    if above[1, -1] == 0:
        return float("nan")
    precision = above[1] / above.sum(0).clamp_min(1)
    return float((hist[1].flip(0).double() / above[1, -1] * precision).sum())


def threshold_iou(hist: Tensor) -> Tensor:
    """IoU of {prior >= k / BINS} for k = 0..BINS-1: (2, BINS) -> (BINS,) float64."""
    above = hist.double().flip(1).cumsum(1).flip(1)
    return above[1] / (above[0] + hist[1].sum() + EPSILON)


def best_threshold(hists: dict[int, Tensor]) -> tuple[float, float]:
    """The threshold with the best mIoU over classes and that mIoU.

    hists: for each class the sum of its episodes' histograms. The threshold is a multiple of 1 / BINS, the lowest of
    equally good ones; a prediction is prior >= threshold.
    """
    if not hists:
        return float("nan"), float("nan")
    miou = torch.stack([threshold_iou(hist) for hist in hists.values()]).mean(0)
    best = int(miou.argmax())
    return best / BINS, float(miou[best])


def prior_bce(prior: Tensor, target: Tensor, *, ignore: bool = True) -> float:
    """Binary cross-entropy between a prior (H, W) in 0..1 and the mask (H, W), mean over pixels (Table 4).

    255 is left out, or counts as background as in the released code (`ignore=False`). Logarithms end at -100.
    """
    keep = target != IGNORE if ignore else torch.ones_like(target, dtype=torch.bool)
    if not keep.any():
        return float("nan")
    truth = (target[keep] == 1).float()
    return float(F.binary_cross_entropy(prior[keep].float().clamp(0, 1), truth))
