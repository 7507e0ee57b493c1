"""Masks of the cross-attention map: DICM (Algorithm 1), CyCTR's (Algorithm S1), and their controls.

An attention map A has query cells as rows and support cells as columns. A strategy says which of its cells
become -inf before the softmax. Nothing here needs a gradient, and ties go to the first cell.
"""

from __future__ import annotations

import torch

STRATEGIES = ("none", "dicm", "column", "cyctr", "transposed", "random")


def applies(strategy: str, query_known: bool) -> bool:
    """Whether a strategy can mask anything: all but `cyctr` compare with the query's mask."""
    return strategy == "cyctr" or (strategy != "none" and query_known)


def find_mask(
    strategy: str,
    scores: torch.Tensor,
    support: torch.Tensor,
    query: torch.Tensor | None = None,
    unknown: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Cells of the attention map that a strategy masks (docs/method.md 5.1).

    Args:
        strategy: none | dicm | column | cyctr | transposed | random.
        scores: (..., n_q, n_s) scaled attention logits; the leading dimensions are images and shots.
        support: (..., n_s) bool, foreground of the support on the attention's grid.
        query: (..., n_q) bool, foreground of the query; without it only cyctr finds anything.
        unknown: (..., n_q) bool, query cells without a known label: no test against them fails.

    Returns:
        (..., n_q, n_s) bool, True is masked; None where the strategy does not apply. A row may be
        masked completely: what happens to it is `masked_softmax`'s business.

    Raises:
        ValueError: for an unknown strategy, and for `transposed` where n_q differs from n_s.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"mask: unknown strategy {strategy!r}, expected one of {', '.join(STRATEGIES)}")
    if not applies(strategy, query is not None):
        return None
    scores = scores.detach()
    best_row = scores.argmax(-2)  # (..., n_s): for every support cell the query cell it prefers
    if strategy == "cyctr":
        best_column = scores.argmax(-1).gather(
            -1, best_row
        )  # (..., n_s): where that query cell leads back to
        return _columns(support != support.gather(-1, best_column), scores)

    leads = best_row.shape[:-1]
    disagree = support != query.expand(*leads, -1).gather(-1, best_row)  # (..., n_s)
    if unknown is not None:
        disagree &= ~unknown.expand(*leads, -1).gather(-1, best_row)
    if strategy == "dicm":
        return _cells(disagree, best_row, scores)
    if strategy == "column":
        return _columns(disagree, scores)
    if strategy == "transposed":
        return _transposed(disagree, best_row, scores)
    return _random(disagree.sum(-1), scores)


def _cells(disagree: torch.Tensor, rows: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """One cell for each disagreeing column: (row of that column, column)."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter_(-2, rows.unsqueeze(-2), disagree.unsqueeze(-2))


def _columns(disagree: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return disagree.unsqueeze(-2).expand_as(scores)


def _transposed(disagree: torch.Tensor, rows: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """As released: [support, query] in place of [query, support], and cell (0, 0) with any consistent column."""
    if scores.shape[-1] != scores.shape[-2]:
        raise ValueError(
            f"mask: transposed needs as many query as support cells, got {tuple(scores.shape[-2:])}"
        )
    mask = _cells(disagree, rows, scores).transpose(-1, -2).contiguous()
    mask[..., 0, 0] |= ~disagree.all(-1)
    return mask


def _random(count: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """`count` cells an attention map at random, never two in one column: the control for DICM."""
    columns = torch.rand(*count.shape, scores.shape[-1], device=scores.device).argsort(-1)
    chosen = columns < count.unsqueeze(-1)  # argsort is a random permutation: exactly `count` fall below it
    rows = torch.randint(scores.shape[-2], chosen.shape, device=scores.device)
    return _cells(chosen, rows, scores)


def mask_ratio(mask: torch.Tensor) -> torch.Tensor:
    """(..., n_q, n_s) bool -> (...) share of masked cells."""
    return mask.sum((-2, -1)) / (mask.shape[-2] * mask.shape[-1])


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the columns without the masked cells; overwrites `scores`.

    A row whose cells are all masked keeps its unmasked softmax: such a query cell attends as if there were no
    mask, and no NaN can arise (the released code's intended orientation gives NaN there).
    """
    full = mask.all(-1, keepdim=True)  # (..., n_q, 1)
    return scores.masked_fill_(mask & ~full, float("-inf")).softmax(-1)
