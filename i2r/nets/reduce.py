"""Shared by I2R and BAM, before their decoders: reduced features, shot weights, stacked priors."""

from __future__ import annotations

import torch
from torch import nn

from i2r.config.networks import CamOptions
from i2r.nets.encoder import EpisodeInputs
from i2r.nets.ensemble import gram_distance, gram_weights
from i2r.nets.pmgm.priors import prior
from i2r.nets.pmgm.regions import Regions
from i2r.nets.resize import bilinear


def reduction(channels: tuple[int, int, int], width: int, dropout: float) -> nn.Sequential:
    """1x1 convolution of [x3, x2] to the decoder's width."""
    c2, c3, _ = channels
    return nn.Sequential(nn.Conv2d(c3 + c2, width, 1, bias=False), nn.ReLU(), nn.Dropout2d(dropout))


def reduced(layers: nn.Module, x2: torch.Tensor, x3: torch.Tensor) -> torch.Tensor:
    """(N, c2, h2, w2), (N, c3, h, w) -> (N, width, h, w)."""
    return layers(torch.cat([x3, bilinear(x2, x3.shape[-2:])], 1))


def weigh_shots(
    inputs: EpisodeInputs, layers: nn.Module | None, needs_distance: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights of the shots (B, K), and the Gram distance averaged with them (B,).

    Args:
        layers: of gram_weights; None: shots have equal weights.
        needs_distance: whether the distance is needed; otherwise None may be returned for it.

    Raises:
        ValueError: the layers are for another number of shots.
    """
    batch, shots = inputs.masks_s.shape[:2]
    if layers is not None and layers[0].in_channels != shots:
        raise ValueError(
            f"shot_weights: gram: trained for {layers[0].in_channels} shots, but the episode has {shots}"
        )
    distance = None
    if layers is not None or needs_distance:
        distance = gram_distance(inputs.x2_q, inputs.x2_s)  # (B, K)
    if layers is None:
        weights = torch.full((batch, shots), 1 / shots, device=inputs.masks_s.device)
    else:
        weights = gram_weights(layers, distance)
    return weights, (weights * distance).sum(1) if distance is not None else None


def stacked_priors(
    inputs: EpisodeInputs,
    options: CamOptions,
    weights: torch.Tensor,
    regions: Regions | None = None,
    embedding: torch.Tensor | None = None,
    support: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The priors in options.prior as channels: (B, P, h, w) and (B, K, P, h, w) or None."""
    maps = [
        prior(name, inputs, options, weights, regions, embedding, support)
        for name in options.prior.split("+")
    ]
    query, own = zip(*maps, strict=True)
    return torch.stack(query, 1), torch.stack(own, 2) if support else None
