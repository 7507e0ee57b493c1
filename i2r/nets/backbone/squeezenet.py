"""SqueezeNet 1.1."""

from __future__ import annotations

from torch import nn

from i2r.config import schema
from i2r.nets.backbone.base import Backbone


def squeezenet(options: schema.Backbone, classes: int) -> Backbone:
    """torchvision's SqueezeNet 1.1, split where its grid is halved; layer4 keeps layer3's grid."""
    from i2r.nets.backbone.torchvision_ops import torchvision  # not at the top: it takes seconds

    parts = torchvision.models.squeezenet1_1(weights=None).features
    layers = [nn.Sequential(*parts[start:end]) for start, end in ((0, 3), (3, 6), (6, 8), (8, 11), (11, 13))]
    return Backbone(layers, (256, 384, 512), classes, linear_classifier=False, block=type(parts[3]))
