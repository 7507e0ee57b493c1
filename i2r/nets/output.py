"""What a network returns, and its losses (docs/method.md 6)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from i2r.nets.precision import full
from i2r.nets.whole_batch import mean


@dataclass
class Output:
    """Result of a meta learner on B episodes of K shots; attributes that a network does not have are None.

    S is the image side (height and width may differ), (h, w) the grid of layer3 (of HSNet: twice that of layer2).
    """

    final_logits: torch.Tensor  # (B, 2, S, S); with the ensemble on these are fused scores, not logits
    losses: dict[str, torch.Tensor] = field(default_factory=dict)  # scalars; empty without a query mask
    meta_logits: torch.Tensor | None = None  # (B, 2, h, w) before the ensemble
    base_logits: torch.Tensor | None = None  # (B, base classes + 1, h4, w4) of the base learner
    support_logits: torch.Tensor | None = None  # (B, K, 2, h, w), only with a query mask
    prior_query: torch.Tensor | None = None  # (B, h, w) 0..1; the mean if there are two priors
    prior_support: torch.Tensor | None = None  # (B, K, h, w)
    cam_query: torch.Tensor | None = None  # (B, K, S, S) normalised, one for each shot
    cam_support: torch.Tensor | None = None  # (B, K, S, S)
    class_id: torch.Tensor | None = None  # (B, K) class that the CAM is made for
    psi: torch.Tensor | None = None  # (B,) Gram distance of query and supports, combined over shots
    merged_query: torch.Tensor | None = None  # (B, width, h, w)
    merged_support: torch.Tensor | None = None  # (B, K, width, h, w)
    mask_ratio: list[torch.Tensor] | None = (
        None  # mean share of masked cells in each block with cross-attention
    )

    @property
    def loss(self) -> torch.Tensor:
        """Sum of the losses.

        Raises:
            ValueError: the network was called without a query mask.
        """
        if not self.losses:
            raise ValueError("no loss without a query mask; call the network with mask_q")
        return sum(self.losses.values())


def query_target(masks: torch.Tensor, ignore: str) -> torch.Tensor:
    """(B, S, S) of 0, 1, 255 -> the same as int64; with ignore == "background" 255 becomes 0."""
    masks = masks.long()
    return masks if ignore == "255" else masks * (masks == 1)


def two_class_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the known pixels of the whole batch at the target's size (a scalar).

    Args:
        logits: (..., 2, h, w), resized with corners aligned.
        target: (..., S, S) of 0, 1, 255; broadcast over missing leading dimensions.

    With two classes only the difference of the logits matters, so one map is resized instead of two. Resizing is two
    products with the weights of bilinear interpolation: on a CPU they take a third of the time of F.interpolate and
    its backward, and on a GPU their backward is deterministic.
    """
    with torch.autocast(logits.device.type, enabled=False):
        difference = full(logits[..., 1, :, :] - logits[..., 0, :, :])  # (..., h, w)
        sizes = zip(difference.shape[-2:], target.shape[-2:], strict=True)
        rows, columns = (_weights(cells, pixels, difference) for cells, pixels in sizes)
        difference = rows.T @ difference @ columns  # (..., S, S)
        known = (target != 255).to(difference.dtype).expand_as(difference)
        truth = (target == 1).to(difference.dtype).expand_as(difference)
        losses = F.binary_cross_entropy_with_logits(difference, truth, known, reduction="sum")
        return mean(losses, known.sum())


def _weights(cells: int, pixels: int, like: torch.Tensor) -> torch.Tensor:
    """(cells, pixels): weight of each cell in each pixel when a line is resized with corners aligned."""
    unit = torch.eye(cells, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(unit, pixels, mode="linear", align_corners=True)[0]
