"""From low-resolution CAMs to CAM+ at image size (docs/method.md 3.1, 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from i2r.config.networks import CamOptions
from i2r.nets.pmgm.cam import cam_masks, normalise

if TYPE_CHECKING:
    from i2r.nets.encoder import EpisodeInputs


class Regions(NamedTuple):
    """CAMs and CAM+ of B episodes with K shots at image size S."""

    cam_query: torch.Tensor  # (B, K, S, S) 0..1, one map of the query for each shot
    cam_support: torch.Tensor  # (B, K, S, S) 0..1
    plus_query: torch.Tensor  # (B, K, S, S) bool, CAM+
    plus_support: torch.Tensor  # (B, K, S, S) bool


@torch.no_grad()
def cam_regions(inputs: EpisodeInputs, options: CamOptions) -> Regions:
    """Normalised maps at image size, and CAM+, of query and supports.

    Raises:
        ValueError: the inputs have no CAM.
    """
    if inputs.cam_q is None or inputs.cam_s is None:
        raise ValueError(f"prior {options.prior} needs a CAM, but the inputs were encoded without one")
    size = inputs.masks_s.shape[-2:]
    query, support = normalise(inputs.cam_q, size), normalise(inputs.cam_s, size)
    return Regions(
        query, support, *cam_masks(query, support, inputs.masks_s, options.delta, options.delta_compare)
    )
