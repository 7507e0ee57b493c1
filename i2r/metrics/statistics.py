"""The bootstrap over test episodes, without torch.

Episodes are drawn with replacement, and the sums of every class computed again. The spread shows how much a score
depends on the choice of test episodes, not on the training seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

LEVEL = 0.95  # share of the bootstrap samples in an interval


def episodes_seed(fold: int, shot: int, eval_seed: int) -> list[int]:
    """The resampling seed for a set of test episodes, the same for every method scored on them.

    So all methods have the same samples, and differences between methods are paired.
    """
    return [fold, shot, eval_seed]


def resample(table: pd.DataFrame, resamplings: int, seed: int | Sequence[int]) -> np.ndarray:
    """mIoU (percent) of bootstrap samples of a run's episodes, (resamplings,).

    Args:
        table: one row per episode, in any order, with columns index, class, inter_fg and union_fg (pixels).
        resamplings: number of samples.
        seed: from `episodes_seed`.

    A class without episodes in a sample is left out of the sample's mean; without any episodes all samples are NaN.
    """
    count = len(table)
    if not count:
        return np.full(resamplings, np.nan)
    # number of times that each episode is drawn: (R, E)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamplings)
    table = table.sort_values("index")
    own = pd.get_dummies(table["class"]).to_numpy(float)  # (E, C)
    inter = drawn @ (own * table["inter_fg"].to_numpy(float)[:, None])  # (R, C)
    union = drawn @ (own * table["union_fg"].to_numpy(float)[:, None])
    iou = np.divide(inter, union, out=np.full_like(inter, np.nan), where=union > 0)
    return 100 * np.nanmean(iou, axis=1)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The central 95 % interval of bootstrap samples (R,), in their unit; NaN if a sample is NaN."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
