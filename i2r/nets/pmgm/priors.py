"""Regions, prototypes and prior maps (docs/method.md 3.3, 3.4): cues to the object's place in the query that are
computed before the meta learner. Priors have no parameters and run in float32 without gradient.

A prior is a function listed in config.networks.PRIORS: (inputs, regions or None, embedding or None, whether the
support's map is needed) -> the query's map and the support's or None, both (B, K, h, w) on any grid, one per shot.

Degenerate cases are handled image by image (in the released code one degenerate image zeroes its batch): an empty
region gives a zero prototype and zeros in the map, a constant map gives zeros. With the embedding, an empty region
gives a random direction instead.
"""

from __future__ import annotations

import torch

from i2r.config.networks import PRIORS, CamOptions
from i2r.config.registry import find
from i2r.nets.encoder import EpisodeInputs
from i2r.nets.pmgm.regions import Regions, cam_regions
from i2r.nets.precision import full
from i2r.nets.resize import bilinear, nearest

EPS = 1e-5  # of averages, cosines and min-max
BAM_EPS = 1e-7
EMBEDDING_ROWS, EMBEDDING_SPREAD = 4, 0.01

Maps = tuple[torch.Tensor, torch.Tensor | None]


def region_means(features: torch.Tensor, regions: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    """Masked average pooling.

    Args:
        features: (B, K, C, h, w). regions: (B, K, R, h, w) weights, on the features' grid.
        eps: added to the sum of the weights (I2R 1e-5, BAM 5e-4), so an empty region gives zeros.

    Returns:
        (B, K, R, C).
    """
    precise = torch.promote_types(features.dtype, regions.dtype)
    weights = regions.flatten(-2).to(precise)  # (B, K, R, n)
    sums = weights @ features.flatten(-2).transpose(-1, -2)  # (B, K, R, C)
    return sums / (weights.sum(-1, keepdim=True) + eps)


def draw_embedding(channels: int, random: torch.Generator) -> torch.Tensor:
    """A random embedding (4, channels) as the released code makes it, normal times EMBEDDING_SPREAD."""
    return EMBEDDING_SPREAD * torch.randn(EMBEDDING_ROWS, channels, generator=random)


def object_regions(inputs: EpisodeInputs, plus: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Regions R1 (object in CAM+) and R2 (object in CAM-) of the supports: (B, K, 2, *size), resized from S."""
    target = inputs.masks_s == 1
    return bilinear(torch.stack([target & plus, target & ~plus], 2), size)


def cosine_maps(features: torch.Tensor, prototypes: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    """(B, K, C, h, w) and (B, K, R, C) -> cosines (B, K, R, h, w), each norm + eps.

    The features may have K = 1 for any number of shots.
    """
    cells = features.flatten(-2)  # (B, K, C, n)
    unit = prototypes / (prototypes.norm(dim=-1, keepdim=True) + eps)
    cosines = (unit @ cells) / (cells.norm(dim=-2, keepdim=True) + eps)
    return cosines.unflatten(-1, features.shape[-2:])


def masked_minmax(maps: torch.Tensor, region: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    """(..., h, w): min-max over the cells where the region is not 0, times the region; zeros elsewhere.

    A map that has a non-finite value inside its region becomes zeros.
    """
    inside = region != 0
    low = maps.masked_fill(~inside, torch.inf).amin((-2, -1), keepdim=True)
    high = maps.masked_fill(~inside, -torch.inf).amax((-2, -1), keepdim=True)
    scaled = (maps - low) / (high - low + eps) * region
    return torch.where(inside & torch.isfinite(high - low), scaled, 0)


def prior(
    name: str,
    inputs: EpisodeInputs,
    options: CamOptions,
    weights: torch.Tensor | None = None,
    regions: Regions | None = None,
    embedding: torch.Tensor | None = None,
    support: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Prior maps on the grid of layer3. They need no training, so they also serve as baselines.

    Args:
        name: one of config.networks.PRIORS.
        options: of the CAM regions (delta, delta_compare).
        weights: (B, K) of the shots in the query's map, sum 1; None: equal.
        regions: computed here if None and needed.
        embedding: (4, c4) of the released code, row 0 for CAM+ and row 2 for CAM- prototypes.
        support: whether the support's map is needed.

    Returns:
        Query (B, h, w) in 0..1, and support (B, K, h, w), not combined over shots, or None.

    Raises:
        ValueError: the name is unknown, or the inputs lack the CAM that the prior needs.
    """
    query, own = _shot_maps(name, inputs, options, regions, embedding, support)
    combined = query.mean(1) if weights is None else (query * weights[:, :, None, None]).sum(1)
    return combined.clamp(0, 1), own


@torch.no_grad()
def _shot_maps(
    name: str,
    inputs: EpisodeInputs,
    options: CamOptions,
    regions: Regions | None,
    embedding: torch.Tensor | None,
    support: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Maps of query and support for each shot, both (B, K, h, w) on the grid of layer3."""
    if name not in PRIORS:
        raise ValueError(f"prior must be one of {', '.join(PRIORS)}, got {name!r}")
    entry = PRIORS[name]
    if entry.uses_cam and regions is None:
        regions = cam_regions(inputs, options)
    with torch.autocast(inputs.x3_q.device.type, enabled=False):
        query, own = find(entry.function)(inputs, regions, embedding, support)
        size = inputs.x3_q.shape[-2:]
        return bilinear(query, size), bilinear(own, size) if support else None


def regional_prototypes(
    inputs: EpisodeInputs, regions: Regions, embedding: torch.Tensor | None = None
) -> torch.Tensor:
    """Prototypes v1 and v2 of docs/method.md 3.3: (B, K, 2, c4)."""
    x4_s = full(inputs.x4_s)
    v = region_means(x4_s, object_regions(inputs, regions.plus_support, x4_s.shape[-2:]))
    if embedding is None:
        return v
    v = v + embedding[::2]
    return v / v.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def regional_map(
    features: torch.Tensor, prototypes: torch.Tensor, plus: torch.Tensor, ordered: bool
) -> torch.Tensor:
    """The cosine maps of both regions, each scaled inside its own region, as one map on layer4's grid.

    Args:
        features: (B, K or 1, c4, h4, w4). prototypes: (B, K, 2, c4). plus: CAM+ (B, K, S, S) bool.
        ordered: put every CAM+ cell above every CAM- cell (ours; the paper's prior loses this order).

    Returns:
        (B, K, h4, w4).
    """
    inside = nearest(plus, features.shape[-2:])
    halves = torch.stack([inside, ~inside], 2).float()  # (B, K, 2, h4, w4)
    scaled = masked_minmax(cosine_maps(features, prototypes), halves).sum(2)
    return 0.5 * (halves[:, :, 0] + scaled) if ordered else scaled


def pmgm(
    inputs: EpisodeInputs,
    regions: Regions,
    embedding: torch.Tensor | None = None,
    support: bool = True,
    above: bool = False,
) -> Maps:
    """The paper's prior: cosines to the prototypes of CAM+ and CAM-, each inside its own region.

    Args:
        above: `ordered` of `regional_map`.
    """
    v = regional_prototypes(inputs, regions, embedding)
    query = regional_map(_whole(inputs), v, regions.plus_query, above)
    return query, regional_map(full(inputs.x4_s), v, regions.plus_support, above) if support else None


def ordered(
    inputs: EpisodeInputs, regions: Regions, embedding: torch.Tensor | None = None, support: bool = True
) -> Maps:
    """PMGM with every CAM+ cell above every CAM- cell."""
    return pmgm(inputs, regions, embedding, support, above=True)


def mean(
    inputs: EpisodeInputs,
    regions: Regions | None = None,
    embedding: torch.Tensor | None = None,
    support: bool = True,
) -> Maps:
    """Cosine to the average of the object, scaled to 0..1."""
    x4_q, x4_s = _whole(inputs), full(inputs.x4_s)
    prototype = region_means(x4_s, _objects(inputs).unsqueeze(2))
    maps = [cosine_maps(x4, prototype).squeeze(2) for x4 in ((x4_q, x4_s) if support else (x4_q,))]
    scaled = [masked_minmax(cosine, torch.ones_like(cosine)) for cosine in maps]
    return scaled[0], scaled[1] if support else None


def bam(
    inputs: EpisodeInputs,
    regions: Regions | None = None,
    embedding: torch.Tensor | None = None,
    support: bool = True,
) -> Maps:
    """The largest cosine to any cell of the object, scaled to 0..1 (BAM)."""
    x4_s = full(inputs.x4_s)
    x4_q = _whole(inputs).expand_as(x4_s)
    cells = (x4_s * _objects(inputs).unsqueeze(2)).flatten(-2)  # (B, K, C, n)
    maps = []
    for x4 in (x4_q, x4_s) if support else (x4_q,):
        # one image at a time: the n x n cosines of a dilated network take 50 MB each
        pairs = zip(x4.flatten(-2).flatten(0, 1), cells.flatten(0, 1), strict=True)
        largest = torch.stack([_largest_cosine(a, b) for a, b in pairs])  # (B * K, n)
        largest = largest.view(*x4.shape[:2], *x4.shape[-2:])
        maps.append(masked_minmax(largest, torch.ones_like(largest), BAM_EPS))
    return maps[0], maps[1] if support else None


def _whole(inputs: EpisodeInputs) -> torch.Tensor:
    """x4 of the unmasked query with a dimension for the shots, (B, 1, c4, h4, w4)."""
    return full(inputs.x4_q).unsqueeze(1)


def _objects(inputs: EpisodeInputs) -> torch.Tensor:
    """Share of the object in every cell of the supports' layer4, (B, K, h4, w4)."""
    return bilinear(inputs.masks_s == 1, inputs.x4_s.shape[-2:])


def _largest_cosine(cells: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(C, n), (C, m) -> (n,): the largest cosine of each cell to any of the others."""
    cosines = others.T @ cells  # (m, n)
    norms = torch.outer(others.norm(dim=0), cells.norm(dim=0)).add_(BAM_EPS)
    return cosines.div_(norms).amax(0)
