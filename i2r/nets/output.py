"""What a network returns, and its losses (method.md 6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from i2r.nets.resize import bilinear


@dataclass
class Output:
    """Result of one forward of a head on B episodes of K shots; what a variant does not have is None.

    S is the image side (height and width may differ), (h, w) the grid of layer3.
    """

    final_logits: torch.Tensor  # (B, 2, S, S); with the ensemble on these are fused scores, not logits
    meta_logits: torch.Tensor  # (B, 2, h, w) the learned network's own
    base_logits: torch.Tensor | None = None  # (B, base classes + 1, h4, w4) of the base learner
    support_logits: torch.Tensor | None = None  # (B, K, 2, h, w), only where there is a query mask
    prior_query: torch.Tensor | None = None  # (B, h, w) 0..1; of two stacked priors the mean
    prior_support: torch.Tensor | None = None  # (B, K, h, w)
    cam_query: torch.Tensor | None = None  # (B, K, S, S) normalised, one a shot
    cam_support: torch.Tensor | None = None  # (B, K, S, S)
    class_id: torch.Tensor | None = None  # (B, K) of the CAM classifier
    psi: torch.Tensor | None = None  # (B,) Gram distance of query and supports, combined over shots
    merged_query: torch.Tensor | None = None  # (B, width, h, w)
    merged_support: torch.Tensor | None = None  # (B, K, width, h, w)
    mask_ratio: list[torch.Tensor] | None = None  # a block with cross-attention: mean share of masked cells
    main: torch.Tensor | None = None  # losses, only where there is a query mask
    aux1: torch.Tensor | None = None
    aux2: torch.Tensor | None = None

    @property
    def loss(self) -> torch.Tensor:
        """main + aux1 + aux2.

        Raises:
            ValueError: if the network was called without a query mask.
        """
        if self.main is None:
            raise ValueError("no loss without a query mask: give mask_q to the network")
        return self.main + self.aux1 + self.aux2


def query_target(masks: torch.Tensor, ignore: str) -> torch.Tensor:
    """(B, S, S) of 0, 1, 255 -> the same as long; with ignore == "background" 255 becomes 0."""
    masks = masks.long()
    return masks if ignore == "255" else masks * (masks == 1)


def two_class_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the known pixels at the target's size (a scalar).

    Args:
        logits: (..., 2, h, w), enlarged with corners aligned.
        target: (..., S, S) of 0, 1, 255; missing leading dimensions are those of the logits.

    Two classes need only the difference of their logits, so one map instead of two is enlarged.
    """
    difference = (logits[..., 1, :, :] - logits[..., 0, :, :]).float()  # (..., h, w)
    difference = bilinear(difference, target.shape[-2:])
    known = target != 255
    losses = F.softplus(torch.where(target == 1, -difference, difference)) * known
    return losses.sum() / known.expand_as(losses).sum()
