"""I2R's decoder: self-attention in both branches, cross-attention between them, side outputs (docs/method.md 5).

Parameter names are those of the published checkpoints (Q_ for query, S_ for support).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from i2r.nets.decoder.attention import CrossAttention, Labels, SelfAttention


class Decoded(NamedTuple):
    """Logits of the decoder; side outputs and support logits are None unless requested."""

    query: torch.Tensor  # (B, 2, h, w)
    support: torch.Tensor | None  # (B, K, 2, h, w)
    side_query: torch.Tensor | None  # (blocks - 1, B, 2, h, w)
    side_support: torch.Tensor | None  # (blocks - 1, B, K, 2, h, w)
    mask_ratio: list[
        torch.Tensor
    ]  # share of masked cells in each block with cross-attention, mean over images and shots


class Decoder(nn.Module):
    """`blocks` blocks, the first `cross` of them with cross-attention.

    Without the support branch, cross-attention takes the merged support features as they are, and there is no
    output for the support (docs/method.md 5).
    """

    def __init__(self, width: int, blocks: int, cross: int, dropout: float, support_branch: bool):
        super().__init__()
        if cross > blocks:
            raise ValueError(f"cross ({cross}) cannot be larger than blocks ({blocks})")
        self.Q_block = nn.ModuleList(SelfAttention(width, dropout) for _ in range(blocks))
        self.CrossAttn = nn.ModuleList(CrossAttention(width, dropout) for _ in range(cross))
        self.Q_block_res2_meta = nn.ModuleList(_output(width, width) for _ in range(blocks))
        self.Q_cls_head = nn.ModuleList(_side_output(width) for _ in range(blocks - 1))
        self.Q_cls_meta = _output(width, 2)
        self.support_branch = support_branch
        if support_branch:
            self.S_block = nn.ModuleList(SelfAttention(width, dropout) for _ in range(blocks))
            self.S_cls_head = nn.ModuleList(_side_output(width) for _ in range(blocks - 1))
            self.S_cls_meta = _output(width, 2)

    def forward(
        self,
        query: torch.Tensor,
        support: torch.Tensor | None,
        labels: Labels | None = None,
        mask: str = "none",
        measure: str = "none",
        side_outputs: bool = True,
    ) -> Decoded:
        """Decode B queries, given K shots each.

        Args:
            query: (B, d, h, w) merged. support: (B, K, d, h, w) merged; None if it is not used.
            labels, mask, measure: see CrossAttention.
            side_outputs: whether the losses need side outputs and support logits. Otherwise the support blocks after
                the last cross-attention are not used, and are skipped.
        """
        size = query.shape[-2:]
        supervise = side_outputs and self.support_branch
        s = _tokens(support) if support is not None else None  # (B, K, n, d)
        sides_q, sides_s, ratios = [], [], []
        for i, block in enumerate(self.Q_block):
            if self.support_branch and (supervise or i < len(self.CrossAttn)):
                s = self.S_block[i](s)
            q = block(_tokens(query.unsqueeze(1)))  # (B, 1, n, d)
            if i < len(self.CrossAttn):
                q, ratio = self.CrossAttn[i](q, s, labels, mask, measure)  # (B, K, n, d), (B, K)
                q = q.mean(1, keepdim=True)
                ratios.append(ratio.mean())
            q = _maps(q, size).squeeze(1)  # (B, d, h, w)
            if side_outputs and i < len(self.Q_cls_head):
                sides_q.append(self.Q_cls_head[i](q))
            if supervise and i < len(self.S_cls_head):
                sides_s.append(_each_shot(self.S_cls_head[i], _maps(s, size)))
            query = q + self.Q_block_res2_meta[i](q)
        return Decoded(
            query=self.Q_cls_meta(query),
            support=_each_shot(self.S_cls_meta, _maps(s, size)) if supervise else None,
            side_query=torch.stack(sides_q) if sides_q else None,
            side_support=torch.stack(sides_s) if sides_s else None,
            mask_ratio=ratios,
        )


def _output(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, out, 1),
    )


def _side_output(width: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 2, 1))


def _tokens(maps: torch.Tensor) -> torch.Tensor:
    """(..., d, h, w) -> (..., h * w, d); no copy if the maps came from `_maps`."""
    return maps.flatten(-2).transpose(-1, -2)


def _maps(tokens: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """(..., h * w, d) -> (..., d, h, w), a view: channels last in memory."""
    return tokens.transpose(-1, -2).unflatten(-1, tuple(size))


def _each_shot(layers: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """(B, K, d, h, w) -> (B, K, 2, h, w). In training the norms use the statistics of one shot at a time."""
    if layers.training:
        return torch.stack([layers(shot) for shot in maps.unbind(1)], 1)
    return layers(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
