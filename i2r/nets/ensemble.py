"""Gram distance of query and supports, shot weights, ensemble with the base learner (docs/method.md 7.2, 7.3)."""

from __future__ import annotations

import torch
from torch import nn

from i2r.nets.precision import full
from i2r.nets.resize import bilinear

EPS = 1e-7
HIDDEN = 2  # channels between the two layers that weight the shots


def gram(features: torch.Tensor) -> torch.Tensor:
    """(..., C, h, w) -> (..., C, C): cosines between the channels."""
    rows = features.flatten(-2)  # (..., C, n)
    norm = rows.norm(dim=-1, keepdim=True)  # (..., C, 1)
    return rows @ rows.transpose(-1, -2) / (norm @ norm.transpose(-1, -2) + EPS)


@torch.no_grad()
def gram_distance(x2_query: torch.Tensor, x2_support: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w), (B, K, C, h, w) of unmasked images -> (B, K): Frobenius norm of the Gram difference, over C."""
    with torch.autocast(x2_query.device.type, enabled=False):
        difference = gram(full(x2_query)).unsqueeze(1) - gram(full(x2_support))  # (B, K, C, C)
        return difference.flatten(-2).norm(dim=-1) / difference.shape[-1]


def shot_layers(shots: int) -> nn.Sequential:
    """The two 1x1 convolutions that turn sorted Gram distances (B, K, 1, 1) into scores of the shots."""
    return nn.Sequential(nn.Conv2d(shots, HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, shots, 1))


def gram_weights(layers: nn.Module, distance: torch.Tensor) -> torch.Tensor:
    """(B, K) Gram distances -> (B, K) shot weights with sum 1."""
    ascending, order = distance.sort(1)
    scores = full(layers(ascending[:, :, None, None])[:, :, 0, 0])
    return scores.gather(1, order.argsort(1)).softmax(1)  # in the original order of the shots


def base_foreground(base_logits: torch.Tensor, left_out: torch.Tensor | None) -> torch.Tensor:
    """Probability of any base class.

    Args:
        base_logits: (B, base classes + 1, h, w), background first.
        left_out: (B,) base class, from 0, that is not counted: the class of a training episode; None: all count.

    Returns:
        (B, 1, h, w).
    """
    probabilities = full(base_logits).softmax(1)
    total = probabilities[:, 1:].sum(1, keepdim=True)
    if left_out is None:
        return total
    channel = (left_out + 1)[:, None, None, None].expand(-1, 1, *total.shape[-2:])
    return total - probabilities.gather(1, channel)


class Ensemble(nn.Module):
    """Removes foreground that belongs to a base class; initially it returns the meta learner's probabilities."""

    def __init__(self):
        super().__init__()
        self.gram_merge = nn.Conv2d(2, 1, 1, bias=False)
        self.cls_merge = nn.Conv2d(2, 1, 1, bias=False)
        for merge in (self.gram_merge, self.cls_merge):
            merge.weight.data = torch.tensor([1.0, 0.0]).view_as(merge.weight)

    def forward(
        self,
        meta_logits: torch.Tensor,
        base_logits: torch.Tensor,
        psi: torch.Tensor,
        left_out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Fused scores (B, 2, h, w), close to probabilities, although the loss takes them as logits.

        Args:
            meta_logits: (B, 2, h, w). base_logits: (B, base classes + 1, h4, w4).
            psi: (B,) Gram distance. left_out: see base_foreground.
        """
        with torch.autocast(meta_logits.device.type, enabled=False):
            meta = full(meta_logits).softmax(1)
            base = bilinear(base_foreground(base_logits, left_out), meta.shape[-2:])
            distance = psi[:, None, None, None].expand(-1, 1, *meta.shape[-2:])
            background = self.gram_merge(torch.cat([meta[:, :1], distance], 1))
            foreground = self.gram_merge(torch.cat([meta[:, 1:], distance], 1))
            return torch.cat([self.cls_merge(torch.cat([background, base], 1)), foreground], 1)
