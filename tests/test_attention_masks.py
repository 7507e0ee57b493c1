"""Attention masks, compared with slow loops and numbers of the published code."""

from pathlib import Path

import loops
import numpy as np
import pytest
import torch

from i2r.config.networks import ATTENTION_MASKS
from i2r.nets.decoder.attention import CrossAttention, Labels
from i2r.nets.decoder.attention_masks import find_mask, mask_ratio, masked_softmax

GOLDEN = np.load(Path(__file__).parent / "golden" / "masks_synthetic_4x4.npz")
CASES = range(6)


def case(index):
    """scores (B, n, n), support (B, n), query (B, n) of a golden case."""
    scores = torch.tensor(GOLDEN["attn"][index])
    support = torch.tensor(GOLDEN["ym_s"][index]).flatten(1) == 1
    query = torch.tensor(GOLDEN["ym"][index]).flatten(1) == 1
    return scores, support, query


@pytest.mark.parametrize("index", CASES)
@pytest.mark.parametrize(
    ("strategy", "key"),
    [("dicm", "i2r_intended"), ("transposed", "i2r_released"), ("cyctr", "cyctr_official")],
)
def test_masks_equal_the_published_ones(strategy, key, index):
    scores, support, query = case(index)
    mask = find_mask(strategy, scores, support, query)
    assert torch.equal(mask, torch.tensor(np.isneginf(GOLDEN[key][index])))
    assert torch.allclose(mask_ratio(mask), torch.tensor(GOLDEN[f"{key}_ratio"][index]))


@pytest.mark.parametrize("strategy", ["dicm", "column", "cyctr", "transposed"])
def test_masks_equal_slow_loops(strategy):
    torch.manual_seed(0)
    size = (3, 2, 12, 12) if strategy == "transposed" else (3, 2, 15, 12)
    scores = torch.randn(size).round(decimals=0)  # many ties: the first cell counts
    support, query = torch.rand(3, 2, 12) < 0.4, torch.rand(3, 1, size[-2]) < 0.5
    mask = find_mask(strategy, scores, support, query)
    for b in range(3):
        for k in range(2):
            assert torch.equal(mask[b, k], loops.mask(strategy, scores[b, k], support[b, k], query[b, 0]))


def test_unknown_query_cells_are_exempt():
    torch.manual_seed(1)
    scores, support, query = torch.randn(2, 9, 9), torch.rand(2, 9) < 0.5, torch.rand(2, 9) < 0.5
    unknown = torch.rand(2, 9) < 0.5
    mask = find_mask("dicm", scores, support, query, unknown)
    for b in range(2):
        assert torch.equal(mask[b], loops.algorithm_1(scores[b], support[b], query[b], unknown[b]))
    assert not mask[unknown].any()
    assert mask.sum() < find_mask("dicm", scores, support, query).sum()


def test_random_masks_as_many_cells_as_dicm_one_a_column():
    torch.manual_seed(2)
    scores, support, query = torch.randn(4, 30, 20), torch.rand(4, 20) < 0.5, torch.rand(4, 30) < 0.5
    mask = find_mask("random", scores, support, query)
    dicm = find_mask("dicm", scores, support, query)
    assert torch.equal(mask.sum((-2, -1)), dicm.sum((-2, -1)))
    assert mask.sum(-2).max() == 1
    assert not torch.equal(mask, dicm)


@pytest.mark.parametrize("strategy", ["none", "dicm", "column", "transposed", "random"])
def test_without_a_query_mask_nothing_applies(strategy):
    scores, support, _ = case(0)
    assert find_mask(strategy, scores, support) is None


def test_unknown_strategy_is_named():
    with pytest.raises(ValueError, match="'dicn'"):
        find_mask("dicn", *case(0))


def test_transposed_needs_a_square_map():
    with pytest.raises(ValueError, match="transposed"):
        find_mask("transposed", torch.randn(1, 4, 6), torch.ones(1, 6) > 0, torch.ones(1, 4) > 0)


def test_a_fully_masked_row_attends_as_if_unmasked():
    scores, support, query = case(4)
    mask = find_mask("dicm", scores, support, query)
    assert mask[0, 5].all()
    weights = masked_softmax(scores.clone(), mask)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 16))
    assert torch.equal(weights[0, 5], scores[0, 5].softmax(-1))
    partly = mask & ~mask.all(-1, keepdim=True)
    assert (weights[partly] == 0).all()


@pytest.mark.parametrize("strategy", ATTENTION_MASKS)
def test_gradients_are_those_of_filling_masked_cells(strategy):
    torch.manual_seed(3)
    q, k, v = (torch.randn(2, 3, 20, 16, requires_grad=True) for _ in range(3))
    support, query = torch.rand(2, 3, 20) < 0.5, torch.rand(2, 1, 20) < 0.5
    mask = find_mask(strategy, q @ k.transpose(-1, -2), support, query)
    partly = mask & ~mask.all(-1, keepdim=True)
    assert partly.any()
    ours = masked_softmax(q @ k.transpose(-1, -2), mask) @ v
    plain = (q @ k.transpose(-1, -2)).masked_fill(partly, float("-inf")).softmax(-1) @ v
    gradients = [torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (ours, plain)]
    assert torch.equal(ours, plain) and all(map(torch.equal, *gradients))


@pytest.mark.parametrize("strategy", ["none", *ATTENTION_MASKS])
def test_cross_attention_with_every_strategy_is_finite_and_learns(strategy):
    torch.manual_seed(3)
    attention = CrossAttention(16, 0.0)
    query, support = torch.randn(2, 1, 20, 16), torch.randn(2, 3, 20, 16)
    labels = Labels(torch.rand(2, 3, 20) < 0.5, torch.rand(2, 1, 20) < 0.5, None)
    out, ratio = attention(query, support, labels, mask=strategy)
    out.square().mean().backward()
    assert out.shape == (2, 3, 20, 16) and out.isfinite().all()
    assert attention.Wk.weight.grad.isfinite().all()
    assert ratio.shape == (2, 3) and (ratio > 0).all() == (strategy != "none")


def test_measuring_a_ratio_changes_nothing():
    torch.manual_seed(4)
    attention = CrossAttention(16, 0.0).eval()
    query, support = torch.randn(2, 1, 20, 16), torch.randn(2, 3, 20, 16)
    labels = Labels(torch.rand(2, 3, 20) < 0.5, torch.rand(2, 1, 20) < 0.5, None)
    plain, nothing = attention(query, support)
    measured, ratio = attention(query, support, labels, measure="dicm")
    _, applied = attention(query, support, labels, mask="dicm")
    assert torch.equal(plain, measured) and (nothing == 0).all()
    assert torch.equal(ratio, applied)


def test_fused_path_equals_an_empty_mask():
    torch.manual_seed(5)
    attention = CrossAttention(16, 0.0).eval()
    query, support = torch.randn(2, 1, 20, 16), torch.randn(2, 1, 20, 16)
    ones = Labels(torch.ones(2, 1, 20) > 0, torch.ones(2, 1, 20) > 0, None)
    masked, ratio = attention(query, support, ones, mask="dicm")
    assert (ratio == 0).all()
    torch.testing.assert_close(masked, attention(query, support)[0], rtol=1e-5, atol=1e-6)
