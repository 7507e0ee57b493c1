"""The learned part of a network by its options."""

from __future__ import annotations

from torch import nn

from i2r.config import schema as params
from i2r.nets.bam import BAM
from i2r.nets.i2r import I2R

HEADS = {"i2r": I2R, "bam": BAM}


def build_head(options: params.Method, channels: tuple[int, int, int], shots: int = 1) -> nn.Module:
    """A network that turns EpisodeInputs into an Output, with fresh weights.

    Args:
        channels: of layer2, layer3 and layer4 (Encoder.channels).
        shots: K that the shot weights are made for; without Gram weights any K will do in forward.
    """
    return HEADS[options.network](options, channels, shots)
