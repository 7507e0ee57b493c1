"""Measures of prior maps and of CAM+ against the query's mask (docs/method.md 3.4). Values are fractions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from i2r.metrics.segmentation import EPSILON, IGNORE

BINS = 1024  # of a prior's histogram; thresholds and average precision are exact to 1 / BINS


def histogram(prior: Tensor, target: Tensor) -> Tensor:
    """Pixels of background and foreground by value of the prior: (2, BINS) int64.

    prior (H, W) in 0..1, target (H, W) 0 | 1 | 255; 255 is left out. Bin k counts k/BINS <= value < (k+1)/BINS; the
    last bin includes 1.
    """
    keep = target != IGNORE
    index = (prior[keep].float() * BINS).long().clamp_(0, BINS - 1)
    return torch.bincount(index + BINS * (target[keep] == 1), minlength=2 * BINS).view(2, BINS).cpu()


def average_precision(hist: Tensor) -> float:
    """Sum over thresholds of (gain in recall) * precision, from a histogram (2, BINS); NaN without foreground.

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
    """The threshold with the best mIoU over classes, and this mIoU.

    hists: class -> sum of its episodes' histograms. The threshold is a multiple of 1 / BINS, and the lowest if several
    are equally good; the prediction is prior >= threshold.
    """
    if not hists:
        return float("nan"), float("nan")
    miou = torch.stack([threshold_iou(hist) for hist in hists.values()]).mean(0)
    best = int(miou.argmax())
    return best / BINS, float(miou[best])


def prior_bce(prior: Tensor, target: Tensor, *, ignore: bool = True) -> float:
    """Binary cross-entropy between a prior (H, W) in 0..1 and the mask (H, W), mean over pixels (Table 4).

    255 is left out, or counts as background as in the released code (`ignore=False`). Logarithms are clamped at -100.
    """
    keep = target != IGNORE if ignore else torch.ones_like(target, dtype=torch.bool)
    if not keep.any():
        return float("nan")
    truth = (target[keep] == 1).float()
    return float(F.binary_cross_entropy(prior[keep].float().clamp(0, 1), truth))


def calibrated_bce(hist: Tensor, probability: Tensor) -> float:
    """Cross-entropy of one episode's prior after the map, mean over known pixels.

    hist (2, BINS) of the episode, probability (BINS,) from calibration.fit.
    """
    counts = hist.double()
    loss = -(counts[1] * probability.log() + counts[0] * torch.log1p(-probability)).sum()
    return float(loss / counts.sum())


def prior_measures(
    hists: dict[int, Tensor],
    cls: int,
    prior: Tensor,
    mask_s: Tensor,
    probability: Tensor | None = None,
) -> dict[str, float]:
    """Cross-entropy and average precision of one episode's prior.

    Args:
        hists: class -> sum of its episodes' histograms (2, BINS); this episode's is added.
        cls: the episode's class.
        prior: (S, S) in 0..1.
        mask_s: (S, S) 0 | 1 | 255.
        probability: (BINS,) from calibration.fit, for the cross-entropy after it; None: it is left out.
    """
    hist = histogram(prior, mask_s)
    hists[cls] = hists[cls] + hist if cls in hists else hist
    found = {
        "bce": prior_bce(prior, mask_s),
        "bce_background": prior_bce(prior, mask_s, ignore=False),
        "ap": average_precision(hist),
    }
    return found if probability is None else found | {"bce_calibrated": calibrated_bce(hist, probability)}


def cam_measures(plus: Tensor, mask_s: Tensor) -> dict[str, float]:
    """Share of the query that is CAM+, and precision and recall of CAM+ for the object, means over the shots.

    plus (K, S, S) bool, mask_s (S, S) 0 | 1 | 255; unknown pixels, including padding, are left out. Precision is NaN
    if CAM+ is empty.
    """
    known, truth = mask_s != IGNORE, mask_s == 1
    marked = (plus & known).flatten(1).sum(1).double()  # (K,)
    hits = (plus & truth).flatten(1).sum(1).double()
    return {
        "share_cam": float((marked / known.sum()).mean()),
        "precision_cam": float((hits / marked).nanmean()),
        "recall_cam": float((hits / truth.sum()).mean()),
    }


CAM_MEASURES = ("share_cam", "precision_cam", "recall_cam")


def prior_summary(rows: Sequence[Mapping[str, Any]], hists: dict[int, Tensor]) -> dict[str, float]:
    """Means over episodes, and the IoU at the best threshold; in percent, except cross-entropy and threshold.

    rows: of `prior_measures` and, if there is a CAM, `cam_measures`; hists: filled by `prior_measures`.
    """
    result = {"bce": mean(rows, "bce"), "bce_background": mean(rows, "bce_background")}
    result["ap"] = 100 * mean(rows, "ap")
    threshold, iou = best_threshold(hists)
    result |= {"iou_best": 100 * iou, "threshold_best": threshold}
    for name in CAM_MEASURES:
        if any(name in row for row in rows):
            result[name] = 100 * mean(rows, name)
    return result


def mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean over the rows that have a number under this name; NaN if none has."""
    values = [row[name] for row in rows if name in row and not math.isnan(row[name])]
    return float(np.mean(values)) if values else float("nan")
