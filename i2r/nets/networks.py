"""Building the meta learner, the trained part of a network, from its options."""

from __future__ import annotations

from torch import nn

from i2r.config.networks import NetworkOptions
from i2r.config.registry import find
from i2r.nets.backbone.base import Layout

__all__ = ["Layout", "build_meta_learner"]


def build_meta_learner(options: NetworkOptions, layout: Layout, shots: int = 1) -> nn.Module:
    """A module that turns EpisodeInputs into an Output, with fresh weights.

    Args:
        options: of the network; `options.module` names its class.
        layout: of the backbone (Encoder.layout).
        shots: K of the layers that weight the shots; without such layers forward takes any K.
    """
    return find(options.module)(options, layout, shots)
