"""Calibration of prior maps: how good would a prior be if its values were probabilities?

Cross-entropy, the paper's measure (Table 4), rewards values near the share of object pixels, wherever they are. So each
prior is also measured after a rising map of its values, fitted on episodes of training classes, and beside a constant.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from i2r.metrics.prior_maps import BINS


def fit(hists: Iterable[Tensor]) -> Tensor:
    """The rising map from a prior's bin to the probability of the object, (BINS,) float64, by isotonic regression.

    Args:
        hists: histograms (2, BINS) of background and foreground pixels; their sum is fitted.

    Half a pixel of each kind is added to a bin that has pixels, so that no probability is 0 or 1. Bins without pixels
    are interpolated.
    """
    total = sum(hists, torch.zeros(2, BINS, dtype=torch.int64)).double().numpy()
    pixels = total.sum(0)
    seen = np.flatnonzero(pixels)
    if not len(seen):
        return torch.full((BINS,), 0.5, dtype=torch.float64)
    share = (total[1, seen] + 0.5) / (pixels[seen] + 1)
    rising = isotonic_regression(share, weights=pixels[seen]).x
    return torch.from_numpy(np.interp(np.arange(BINS), seen, rising))


def object_share(hists: Iterable[Tensor]) -> float:
    """Share of object pixels, the best constant prior; NaN without pixels."""
    total = sum(hists, torch.zeros(2, BINS, dtype=torch.int64)).double()
    return float(total[1].sum() / total.sum())
