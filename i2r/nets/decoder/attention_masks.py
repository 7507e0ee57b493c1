"""Masks of the cross-attention map: DICM (Algorithm 1), CyCTR's (Algorithm S1), and controls.

An attention map has query cells as rows and support cells as columns. A strategy decides which cells become -inf
before the softmax. It is a function of scores and labels, listed in config.networks.ATTENTION_MASKS, with the arguments
of `find_mask`. Masks have no gradient. Among equal scores the first cell is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from i2r.config.networks import ATTENTION_MASKS, AttentionMask
from i2r.config.registry import find


def applies(strategy: str, query_known: bool) -> bool:
    """Whether a strategy can be applied; most strategies need the query's mask."""
    return strategy != "none" and (query_known or not _entry(strategy).needs_query)


def find_mask(
    strategy: str,
    scores: Tensor,
    support: Tensor,
    query: Tensor | None = None,
    unknown: Tensor | None = None,
) -> Tensor | None:
    """Cells of the attention map that a strategy masks (docs/method.md 5.1).

    Args:
        strategy: none, or one of ATTENTION_MASKS.
        scores: (..., n_q, n_s) scaled attention logits; the leading dimensions are images and shots.
        support: (..., n_s) bool, foreground of the support on the attention's grid.
        query: (..., n_q) bool, foreground of the query; without it only cyctr applies.
        unknown: (..., n_q) bool, query cells without a known label, which never count as inconsistent.

    Returns:
        (..., n_q, n_s) bool, True is masked; None if the strategy does not apply. A row may be masked
        completely; see `masked_softmax`.

    Raises:
        ValueError: the strategy is unknown, or is `transposed` and n_q differs from n_s.
    """
    if not applies(strategy, query is not None):
        return None
    return find(_entry(strategy).function)(scores.detach(), support, query, unknown)


def _entry(strategy: str) -> AttentionMask:
    if strategy not in ATTENTION_MASKS:
        raise ValueError(
            f"mask: unknown strategy {strategy!r}, expected one of none, {', '.join(ATTENTION_MASKS)}"
        )
    return ATTENTION_MASKS[strategy]


def dicm(scores: Tensor, support: Tensor, query: Tensor | None, unknown: Tensor | None) -> Tensor:
    """For each inconsistent support cell, mask the query cell that it prefers (Algorithm 1)."""
    rows, disagree = _disagreement(scores, support, query, unknown)
    return _cells(disagree, rows, scores)


def column(scores: Tensor, support: Tensor, query: Tensor | None, unknown: Tensor | None) -> Tensor:
    """For each inconsistent support cell, mask the complete column."""
    _, disagree = _disagreement(scores, support, query, unknown)
    return _columns(disagree, scores)


def cyctr(scores: Tensor, support: Tensor, query: Tensor | None, unknown: Tensor | None) -> Tensor:
    """Mask the columns of support cells whose cycle to the query and back ends at the other label (Algorithm S1)."""
    there = scores.argmax(-2)  # (..., n_s): the query cell that each support cell prefers
    back = scores.argmax(-1).gather(-1, there)  # (..., n_s): the support cell that this query cell prefers
    return _columns(support != support.gather(-1, back), scores)


def transposed(scores: Tensor, support: Tensor, query: Tensor | None, unknown: Tensor | None) -> Tensor:
    """As released: [support, query] instead of [query, support], and cell (0, 0) if any column is consistent."""
    if scores.shape[-1] != scores.shape[-2]:
        raise ValueError(
            f"mask: transposed needs as many query as support cells, got {tuple(scores.shape[-2:])}"
        )
    rows, disagree = _disagreement(scores, support, query, unknown)
    mask = _cells(disagree, rows, scores).transpose(-1, -2).contiguous()
    mask[..., 0, 0] |= ~disagree.all(-1)
    return mask


def random(scores: Tensor, support: Tensor, query: Tensor | None, unknown: Tensor | None) -> Tensor:
    """As many random cells as DICM masks, at most one in a column; a control for DICM."""
    _, disagree = _disagreement(scores, support, query, unknown)
    count = disagree.sum(-1, keepdim=True)  # (..., 1)
    columns = torch.rand(disagree.shape, device=scores.device).argsort(-1)
    chosen = columns < count  # argsort is a random permutation, so exactly `count` are below it
    rows = torch.randint(scores.shape[-2], chosen.shape, device=scores.device)
    return _cells(chosen, rows, scores)


def _disagreement(
    scores: Tensor, support: Tensor, query: Tensor, unknown: Tensor | None
) -> tuple[Tensor, Tensor]:
    """For each support cell the query cell that it prefers, and whether their labels differ; both (..., n_s)."""
    best_row = scores.argmax(-2)
    leads = best_row.shape[:-1]
    disagree = support != query.expand(*leads, -1).gather(-1, best_row)
    if unknown is not None:
        disagree &= ~unknown.expand(*leads, -1).gather(-1, best_row)
    return best_row, disagree


def _cells(disagree: Tensor, rows: Tensor, scores: Tensor) -> Tensor:
    """One cell for each inconsistent column: (its row in `rows`, column)."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter_(-2, rows.unsqueeze(-2), disagree.unsqueeze(-2))


def _columns(disagree: Tensor, scores: Tensor) -> Tensor:
    return disagree.unsqueeze(-2).expand_as(scores)


def mask_ratio(mask: Tensor) -> Tensor:
    """(..., n_q, n_s) bool -> (...) share of masked cells."""
    return mask.sum((-2, -1)) / (mask.shape[-2] * mask.shape[-1])


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the columns without the masked cells; overwrites `scores`.

    A row whose cells are all masked keeps its unmasked softmax: this query cell attends as if there were no mask,
    which avoids NaN.
    """
    full = mask.all(-1, keepdim=True)  # (..., n_q, 1)
    # a masked cell has weight 0, and so gradient 0: recorded, the masking would cost a copy of the map
    with torch.no_grad():
        scores.masked_fill_(mask & ~full, float("-inf"))
    return scores.softmax(-1)
