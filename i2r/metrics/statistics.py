"""The bootstrap: how far a score would move with other test episodes. The only one of the project; no torch here.

Episodes are drawn with replacement and the sums of every class computed anew. What comes of it is about the choice
of test episodes, not about training seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

LEVEL = 0.95  # share of the bootstrap samples inside an interval


def episodes_seed(fold: int, shot: int, eval_seed: int) -> list[int]:
    """The seed of the resampling of these test episodes, the same for every method that is scored on them.

    So all methods are scored on the same samples, and differences of two methods are paired.
    """
    return [fold, shot, eval_seed]


def resample(table: pd.DataFrame, resamplings: int, seed: int | Sequence[int]) -> np.ndarray:
    """mIoU (percent) of bootstrap samples of one run's episodes, (resamplings,).

    Args:
        table: a row an episode, columns index, class, inter_fg and union_fg (pixels); in any order.
        resamplings: number of samples.
        seed: of `episodes_seed`.

    A class that a sample lacks is left out of that sample's mean; without episodes all samples are NaN.
    """
    count = len(table)
    if not count:
        return np.full(resamplings, np.nan)
    # how often each episode is drawn, instead of the drawn indices: (R, E)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamplings)
    table = table.sort_values("index")
    own = pd.get_dummies(table["class"]).to_numpy(float)  # (E, C)
    inter = drawn @ (own * table["inter_fg"].to_numpy(float)[:, None])  # (R, C)
    union = drawn @ (own * table["union_fg"].to_numpy(float)[:, None])
    iou = np.divide(inter, union, out=np.full_like(inter, np.nan), where=union > 0)
    return 100 * np.nanmean(iou, axis=1)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap samples (R,), in their unit; NaN where a sample is NaN."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
