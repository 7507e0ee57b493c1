"""Intervals, tests and the number of seeds that a claim needs, without torch (docs/statistics.md).

Three things vary, and each has its own interval, never mixed with the others:

- the images: a bootstrap of the query images, whose episodes stay together. It says how far a score would move with
  other images of the same kind, for the same trained networks;
- the evaluation seed: which episodes are drawn from the same images (a standard deviation);
- the training seed: initial weights and training episodes (a t interval).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95  # of every interval
POWER = 0.8  # with which a difference should be seen, for the number of seeds
FEWEST = 3  # training seeds without which there is no verdict


@dataclass(frozen=True)
class Samples:
    """Bootstrap samples of a score.

    Attributes:
        values: (R,), in the score's unit.
        images: number of query images of each class that the score rests on.
    """

    values: np.ndarray
    images: tuple[int, ...]

    def __sub__(self, other: Samples) -> Samples:
        return Samples(self.values - other.values, self.images + other.images)

    @property
    def _freedom(self) -> float:
        """Images of a class, by the harmonic mean, less one."""
        return len(self.images) / sum(1 / count for count in self.images) - 1

    def interval(self) -> tuple[float, float]:
        """The central 95 % interval by expanded percentiles (Hesterberg 2015); NaN with one image a class, or if a
        sample has no number.

        Plain percentiles are too narrow for few images; the expansion is that of a t interval for as many.
        """
        if np.isnan(self.values).any() or self._freedom <= 0:
            return float("nan"), float("nan")
        wide = np.sqrt(1 + 1 / self._freedom) * stats.t.ppf((1 + LEVEL) / 2, self._freedom)
        low, high = np.quantile(self.values, [stats.norm.cdf(-wide), stats.norm.cdf(wide)])
        return float(low), float(high)

    def p_below(self, limit: float) -> float:
        """p value of the hypothesis that the score is `limit` or lower, by the same expanded percentiles."""
        if np.isnan(self.values).any() or self._freedom <= 0:
            return float("nan")
        share = (np.sum(self.values <= limit) + 0.5) / (len(self.values) + 1)
        return float(stats.t.sf(-stats.norm.ppf(share) / np.sqrt(1 + 1 / self._freedom), self._freedom))


def averaged(parts: Sequence[Samples]) -> Samples:
    """Samples of a mean of scores; the same images keep their weights, whichever score they belong to."""
    images = tuple(count for part in parts for count in part.images)
    return Samples(np.mean([part.values for part in parts], axis=0), images)


# --- the bootstrap of images -----------------------------------------------------------------------------------


@lru_cache(maxsize=100_000)
def _times(image: str, resamplings: int) -> np.ndarray:
    """How often an image counts in each sample, (R,): Poisson numbers that depend on its name alone.

    So all methods, folds and evaluation seeds have the same samples, and differences between methods are paired.
    """
    seed = int.from_bytes(hashlib.blake2b(image.encode(), digest_size=8).digest(), "big")
    return np.random.default_rng(seed).poisson(1.0, resamplings).astype(np.uint8)


def _drawn(images: Iterable[str], resamplings: int) -> np.ndarray:
    """(R, P)"""
    return np.stack([_times(str(image), resamplings) for image in images], 1).astype(float)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; NaN where `below` is 0, as in a sample in which no image counts."""
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def _images(table: pd.DataFrame) -> tuple[int, ...]:
    return tuple(int(count) for count in table.groupby("class")["query"].nunique())


def miou_samples(table: pd.DataFrame, resamplings: int) -> Samples:
    """Samples of mIoU (percent): sums over the episodes of each class, then the mean over classes.

    Args:
        table: one row per episode, with columns class, query (the id of its image), inter_fg and union_fg (pixels).

    A class without an image in a sample is left out of the sample's mean; without any episodes all samples are NaN.
    """
    if not len(table):
        return Samples(np.full(resamplings, np.nan), ())
    sums = table.groupby(["query", "class"])[["inter_fg", "union_fg"]].sum().unstack(fill_value=0)
    drawn = _drawn(sums.index, resamplings)
    inter, union = (drawn @ sums[name].to_numpy(float) for name in ("inter_fg", "union_fg"))  # (R, C)
    iou = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    scored = (union > 0).sum(1).astype(float)  # (R,) classes
    miou = np.divide(iou.sum(1), scored, out=np.full(resamplings, np.nan), where=scored > 0)
    return Samples(100 * miou, _images(table))


def fb_iou_samples(table: pd.DataFrame, resamplings: int) -> Samples:
    """Samples of FB-IoU (percent); table as for `miou_samples`, with inter_bg and union_bg as well."""
    if not len(table):
        return Samples(np.full(resamplings, np.nan), ())
    names = ["inter_fg", "union_fg", "inter_bg", "union_bg"]
    sums = table.groupby("query")[names].sum()
    total = _drawn(sums.index, resamplings) @ sums.to_numpy(float)  # (R, 4)
    objects, background = ratio(total[:, 0], total[:, 1]), ratio(total[:, 2], total[:, 3])
    return Samples(50 * (objects + background), (len(sums),))


def mean_samples(table: pd.DataFrame, column: str, resamplings: int) -> Samples:
    """Samples of the mean of a column over episodes; episodes without a number are left out."""
    table = table.dropna(subset=[column])
    if not len(table):
        return Samples(np.full(resamplings, np.nan), ())
    sums = table.groupby("query")[column].agg(["sum", "size"])
    total = _drawn(sums.index, resamplings) @ sums.to_numpy(float)  # (R, 2)
    return Samples(ratio(total[:, 0], total[:, 1]), (len(sums),))


@dataclass(frozen=True)
class Measured:
    """A score in percent, or a difference of scores in points, and its samples over images."""

    value: float
    samples: Samples

    def __sub__(self, other: Measured) -> Measured:
        return Measured(self.value - other.value, self.samples - other.samples)


def miou(table: pd.DataFrame, resamplings: int) -> Measured:
    """mIoU over the classes of a table, and its samples; table as for `miou_samples`, with at least one row."""
    sums = table.groupby("class")[["inter_fg", "union_fg"]].sum()
    value = 100 * float((sums["inter_fg"] / sums["union_fg"].clip(lower=1)).mean())
    return Measured(value, miou_samples(table, resamplings))


def averaged_scores(parts: Sequence[Measured]) -> Measured:
    """The mean of scores of folds or seeds."""
    return Measured(
        float(np.mean([part.value for part in parts])), averaged([part.samples for part in parts])
    )


# --- seeds -----------------------------------------------------------------------------------------------------


def seed_interval(values: Sequence[float]) -> tuple[float, float]:
    """The t interval of the mean over seeds; NaN with fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def seeds_p_below(values: Sequence[float], limit: float) -> float:
    """p value of the hypothesis that the mean over seeds is `limit` or lower (t test); NaN with fewer than two."""
    if len(values) < 2:
        return float("nan")
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    if error == 0:
        return float(np.mean(values) <= limit)
    return float(stats.t.sf((np.mean(values) - limit) / error, len(values) - 1))


def seeds_needed(difference: float, deviation: float, most: int = 1000) -> int | None:
    """Training seeds with which a t test sees a difference in four of five cases; None if `most` are too few.

    Args:
        difference: the true one.
        deviation: standard deviation of the difference over paired seeds.
    """
    for count in range(2, most + 1):
        reach = stats.t.ppf((1 + LEVEL) / 2, count - 1) + stats.t.ppf(POWER, count - 1)
        if abs(difference) >= reach * deviation / np.sqrt(count):
            return count
    return None


# --- verdicts --------------------------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for testing all of them (Holm 1979); NaN stays and is not counted."""
    values = np.asarray(p_values, float)
    order = [at for at in np.argsort(values) if not np.isnan(values[at])]
    adjusted, highest = values.copy(), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, values[at] * (len(order) - rank)))
        adjusted[at] = highest
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class Comparison:
    """Two methods compared: their difference, and p values before Holm.

    Each p value is the larger of two: of the images and of the training seeds. So a verdict holds for other images
    and for other trainings.

    Attributes:
        difference: in points.
        differs: p value of "there is no difference".
        equal: p value of "the difference is larger than the margin, in either direction".
        above: p value of "the difference is at most the margin".
        seeds: number of training seeds.
        deviation: standard deviation of the difference over seeds, NaN for one.
    """

    difference: float
    differs: float
    equal: float
    above: float
    seeds: int
    deviation: float


def compare(difference: Samples | None, by_seed: Sequence[float], margin: float) -> Comparison:
    """Compare two methods by the samples and the seeds of their difference.

    Args:
        difference: samples over images, in points; None for what is not measured by images.
        by_seed: the difference for each training seed.
        margin: up to which a difference counts as none.
    """

    def both(limit: float) -> tuple[float, float]:
        """p values of "at most the limit" and of "at least the limit"."""
        below, above = [seeds_p_below(by_seed, limit)], [seeds_p_below([-d for d in by_seed], -limit)]
        if difference is not None:
            opposite = Samples(-difference.values, difference.images)
            below, above = [*below, difference.p_below(limit)], [*above, opposite.p_below(-limit)]
        return float(np.max(below)), float(np.max(above))

    mean = float(np.mean(by_seed)) if len(by_seed) else float("nan")
    if len(by_seed) < 2:
        nothing = float("nan")
        return Comparison(mean, nothing, nothing, nothing, len(by_seed), nothing)
    differs = float(np.minimum(1.0, 2 * np.min(both(0.0))))  # NaN if either is
    equal = float(np.max([both(-margin)[0], both(margin)[1]]))
    return Comparison(mean, differs, equal, both(margin)[0], len(by_seed), float(np.std(by_seed, ddof=1)))


def no_verdict(seeds: int) -> str:
    """Why so few training seeds allow no verdict."""
    return f"{('no', 'one', 'two')[seeds]} training seed{'' if seeds == 1 else 's'}: no verdict"


def verdicts(
    claims: Sequence[Comparison], expected: Sequence[float], margin: float | Sequence[float]
) -> list[str]:
    """What may be said of each claim of a page, with Holm's adjustment over all of them.

    Args:
        expected: the claimed differences, in points; their signs count, and their sizes for the seeds needed.
        margin: up to which a difference counts as none, declared before the run; one for all, or one for each.

    Returns:
        `supported`, `opposite`, `no difference larger than m`, `undecided (...)`, `one training seed: no verdict` or
        `n training seeds: no verdict`, or `not run`.
    """
    differs = holm([claim.differs if claim.seeds >= FEWEST else float("nan") for claim in claims])
    equal = holm([claim.equal if claim.seeds >= FEWEST else float("nan") for claim in claims])
    margins = [margin] * len(claims) if isinstance(margin, int | float) else margin
    said = []
    for claim, by, least, p_differs, p_equal in zip(claims, expected, margins, differs, equal, strict=True):
        if not claim.seeds:
            said.append("not run")
        elif claim.seeds < FEWEST:
            said.append(no_verdict(claim.seeds))
        elif np.isnan(claim.differs):
            said.append("undecided (its interval is not defined)")
        elif p_equal < 1 - LEVEL:
            said.append(f"no difference larger than {least:.2g}")
        elif p_differs < 1 - LEVEL:
            said.append("supported" if claim.difference * by > 0 else "opposite")
        else:
            needed = seeds_needed(by, claim.deviation)
            count = f"about {needed} seeds" if needed else "more than 1000 seeds"
            size = f"{by:+.1f}" if abs(by) >= 0.05 else f"{by:+.1g}"
            said.append(f"undecided ({size} would need {count})")
    return said
