"""VGG-16 with batch norm, split into BAM's blocks."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from i2r.config import schema
from i2r.nets.backbone.base import Backbone


def vgg16_bam(options: schema.Backbone, classes: int) -> Backbone:
    """VGG-16 with BN in BAM's blocks; the first four end with their pooling, the last has none.

    VGG has no `fc`: no weights are published for a classifier on the global average pool of its features, so it has
    no CAM. The pyramid has the output of every convolution, after its ReLU.
    """
    from i2r.nets.backbone.torchvision_ops import torchvision  # not at the top: it takes seconds

    parts = torchvision.models.vgg16_bn(weights=None, num_classes=1).features
    cuts = (0, 7, 14, 24, 34, 43)
    layers = [nn.Sequential(*parts[start:end]) for start, end in pairwise(cuts)]
    return Backbone(layers, (256, 512, 512), classes, resize_layer2=True, block=nn.ReLU)
