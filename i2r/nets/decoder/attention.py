"""Self-attention of each branch and cross-attention from the query to the supports (docs/method.md 5).

Single-head, scale 1/sqrt(width), dropout on the attended value. Tokens are (B, K, n, d): a query has K = 1.
Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from i2r.nets.decoder.attention_masks import applies, find_mask, mask_ratio, masked_softmax


class Labels(NamedTuple):
    """Labels on the attention's grid, which the attention masks compare."""

    support: torch.Tensor  # (B, K, n) bool, foreground
    query: torch.Tensor | None  # (B, 1, n) bool, foreground; None: not known
    unknown: (
        torch.Tensor | None
    )  # (B, 1, n) bool: query cells exempt from the comparison; None: no such cells


class Dropout(nn.Dropout):
    """nn.Dropout that on a CPU draws 16 random bits per value (p is rounded to 1/65536), in a third of the time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not 0 < self.p < 1 or x.device.type != "cpu":
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)  # uniform in -32768 ... 32767
        kept = bits >= round(self.p * 2**16) - 2**15
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


class SelfAttention(nn.Module):
    """y = LN(attended + x), out = LN(y + FF(y))."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.Wq = nn.Linear(width, width)
        self.Wk = nn.Linear(width, width)
        self.Wv = nn.Linear(width, width)
        self.LN_attn = nn.LayerNorm(width)
        self.LN_ffn = nn.LayerNorm(width)
        self.proj_out = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), Dropout(dropout)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, K, n, d) -> (B, K, n, d); each shot attends only to itself."""
        attended = F.scaled_dot_product_attention(self.Wq(x), self.Wk(x), self.Wv(x))
        y = self.LN_attn(self.dropout(attended) + x)
        return self.LN_ffn(y + self.proj_out(y))


class CrossAttention(nn.Module):
    """o = LN(attended) + x, out = o + FF(o), where FF ends with a norm."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.Wq = nn.Linear(width, width)
        self.Wk = nn.Linear(width, width)
        self.Wv = nn.Linear(width, width)
        self.LN = nn.LayerNorm(width)
        self.proj_out = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(2 * width, width),
            Dropout(dropout),
            nn.LayerNorm(width),
        )
        self.dropout = Dropout(dropout)

    def forward(
        self,
        query: torch.Tensor,
        support: torch.Tensor,
        labels: Labels | None = None,
        mask: str = "none",
        measure: str = "none",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Let the query attend to each shot separately.

        Args:
            query: (B, 1, n, d). support: (B, K, n, d).
            mask: the strategy to apply. measure: the strategy whose mask ratio is measured without applying it, if
                `mask` does not apply.

        Returns:
            (B, K, n, d), the attended query for each shot, and the ratio of masked cells (B, K).
        """
        q = self.Wq(query).expand(-1, support.shape[1], -1, -1)  # (B, K, n, d)
        k, v = self.Wk(support), self.Wv(support)
        if labels is not None and applies(mask, labels.query is not None):
            scores = _scores(q, k)
            cells = find_mask(mask, scores, *labels)  # (B, K, n, n)
            attended = masked_softmax(scores, cells) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
            with torch.no_grad():
                known = labels is not None and applies(measure, labels.query is not None)
                cells = find_mask(measure, _scores(q, k), *labels) if known else None
        ratio = mask_ratio(cells) if cells is not None else q.new_zeros(q.shape[:2], dtype=torch.float32)
        o = self.LN(self.dropout(attended)) + query
        return o + self.proj_out(o), ratio

    def attention(
        self, query: torch.Tensor, support: torch.Tensor, labels: Labels, mask: str
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits of the attention (B, K, n_q, n_s), and the cells that a strategy masks, None if it does not apply."""
        q = self.Wq(query).expand(-1, support.shape[1], -1, -1)
        scores = _scores(q, self.Wk(support))
        return scores, find_mask(mask, scores, *labels)


def _scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(B, K, n_q, d), (B, K, n_s, d) -> (B, K, n_q, n_s) scaled attention logits."""
    return (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
