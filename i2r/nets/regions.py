"""From low-resolution CAMs to CAM+ at image size (method.md 3.1, 3.2)."""

from __future__ import annotations

import operator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from i2r import params
from i2r.nets.encoder import EpisodeInputs

EPS = 1e-5
STEPS = 51  # adaptive thresholds: 0, 0.02, ..., 1


class Regions(NamedTuple):
    """What the CAM says of B episodes with K shots at image size S."""

    cam_query: torch.Tensor  # (B, K, S, S) 0..1, one map of the query a shot
    cam_support: torch.Tensor  # (B, K, S, S) 0..1
    plus_query: torch.Tensor  # (B, K, S, S) bool, CAM+
    plus_support: torch.Tensor  # (B, K, S, S) bool


def uses_cam(options: params.Method) -> bool:
    """Whether any part of the method looks at a CAM: the priors by CAM do, and with them I2R's merge."""
    return any(part in ("pmgm", "ordered") for part in options.prior.split("+"))


@torch.no_grad()
def cam_regions(inputs: EpisodeInputs, options: params.Method) -> Regions:
    """Enlarged, normalised maps and CAM+ of query and supports.

    Raises:
        ValueError: if the inputs were made without CAM.
    """
    if inputs.cam_q is None or inputs.cam_s is None:
        raise ValueError(f"prior {options.prior} needs a CAM, but these inputs were encoded without one")
    size = inputs.masks_s.shape[-2:]
    query, support = enlarge(inputs.cam_q, size), enlarge(inputs.cam_s, size)
    if options.delta == "adaptive":
        threshold, compare = adaptive_threshold(support, inputs.masks_s)[..., None, None], operator.gt
    else:
        threshold = float(options.delta)
        compare = operator.ge if options.delta_compare == ">=" else operator.gt
    return Regions(query, support, compare(query, threshold), compare(support, threshold))


def enlarge(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Rectified maps (..., h, w) -> (..., *size) from 0 to 1, each by its own smallest and largest value.

    Corners are not aligned here, unlike everywhere else. A constant map, an empty one too, gives zeros.
    """
    large = F.interpolate(
        maps.float().reshape(-1, 1, *maps.shape[-2:]), size, mode="bilinear", align_corners=False
    )
    large = large.view(*maps.shape[:-2], *size)
    large = large - large.amin((-2, -1), keepdim=True)
    large = large / (large.amax((-2, -1), keepdim=True) + EPS)  # as the CAM methods do
    return large / large.amax((-2, -1), keepdim=True).clamp(
        min=torch.finfo(large.dtype).tiny
    )  # and without epsilon


def adaptive_threshold(cams: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The first of 0, 0.02, ..., 1 for which cam > threshold overlaps best with the object.

    Args:
        cams: (..., S, S) 0..1 of the supports. masks: (..., S, S), 1 on the object.

    Returns:
        (...) float32; 0 where the object is empty, for then every IoU is 0.
    """
    thresholds = (torch.arange(STEPS, dtype=torch.float64) * 0.02).float().to(cams.device)
    # a cell stands in the masks of all thresholds below its value: count cells by how many those are
    below = torch.bucketize(cams.flatten(-2), thresholds)  # (..., n) 0..STEPS
    target = (masks == 1).flatten(-2).float()

    def above(weights: torch.Tensor) -> torch.Tensor:
        """(..., STEPS): sum of the weights of cells with a value above each threshold."""
        histogram = weights.new_zeros(*weights.shape[:-1], STEPS + 1).scatter_add_(-1, below, weights)
        return histogram.flip(-1).cumsum(-1).flip(-1)[..., 1:]

    intersection, chosen = above(target), above(torch.ones_like(target))
    union = chosen + target.sum(-1, keepdim=True) - intersection
    return thresholds[(intersection / union.clamp(min=1)).argmax(-1)]
