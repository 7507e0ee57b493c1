"""Calibrated priors: a rising map that is a probability where it was fitted."""

import pytest
import torch

from i2r.metrics import calibration
from i2r.metrics.prior_maps import BINS, calibrated_bce, histogram, prior_bce


def example(seed, slope):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(60, 60, generator=generator)
    target = (torch.rand(60, 60, generator=generator) < truth).byte()
    target[:3] = 255
    return truth**slope, target  # for slope 1 the prior is the probability


def test_calibration_finds_the_probability_and_lowers_cross_entropy():
    prior, target = example(0, 5.0)
    fitted = calibration.fit([histogram(*example(seed, 5.0)) for seed in range(1, 9)])
    assert (
        fitted.shape == (BINS,) and (fitted.diff() >= 0).all() and (fitted > 0).all() and (fitted < 1).all()
    )
    after = calibrated_bce(histogram(prior, target), fitted)
    best = prior_bce(prior ** (1 / 5.0), target)
    assert best - 0.01 < after < best + 0.02 < prior_bce(prior, target) - 0.3


def test_a_calibrated_prior_stays_as_it_is():
    prior, target = example(0, 1.0)
    fitted = calibration.fit([histogram(*example(seed, 1.0)) for seed in range(1, 9)])
    after = calibrated_bce(histogram(prior, target), fitted)
    assert after == pytest.approx(prior_bce(prior, target), abs=0.02)


def test_the_constant_is_the_share_of_object_pixels():
    _, target = example(0, 1.0)
    hist = histogram(torch.rand(60, 60), target)
    share = float((target == 1).sum() / (target != 255).sum())
    assert calibration.object_share([hist, hist]) == pytest.approx(share)
    nothing = torch.zeros(2, BINS, dtype=torch.int64)
    assert (calibration.fit([nothing]) == 0.5).all()
