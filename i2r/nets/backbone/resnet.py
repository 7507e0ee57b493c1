"""ResNet-50 and ResNet-101: torchvision's, and BAM's."""

from __future__ import annotations

from torch import nn

from i2r.config import schema
from i2r.nets.backbone.base import Backbone, initialise

CHANNELS = (512, 1024, 2048)


def resnet(options: schema.Backbone, classes: int) -> Backbone:
    """torchvision's `resnet50` or `resnet101`, undilated.

    `options.stride_at` says which convolution of a bottleneck has the stride: "3x3" (torchvision) or the first "1x1"
    (He et al.).
    """
    from i2r.nets.backbone.torchvision_ops import torchvision  # not at the top: it takes seconds

    net = getattr(torchvision.models, options.name)(weights=None, num_classes=1)
    if options.stride_at == "1x1":
        for layer in (net.layer2, net.layer3, net.layer4):
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return Backbone([stem, net.layer1, net.layer2, net.layer3, net.layer4], CHANNELS, classes)


def resnet_bam(options: schema.Backbone, classes: int) -> Backbone:
    """BAM's `resnet50-bam` or `resnet101-bam`: deep stem, layer3 and layer4 with dilation 2 and 4 and no stride.

    All blocks of a dilated layer have the new dilation, including the first (with torchvision's
    `replace_stride_with_dilation` the first block keeps the old one).
    """
    from i2r.nets.backbone.torchvision_ops import torchvision

    net = getattr(torchvision.models, options.name.removesuffix("-bam"))(weights=None, num_classes=1)
    stem: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 64, 2), (64, 64, 1), (64, 128, 1)):
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        stem += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    first = net.layer1[0]
    first.conv1 = nn.Conv2d(128, 64, 1, bias=False)
    first.downsample[0] = nn.Conv2d(128, 256, 1, bias=False)
    initialise([*stem, first.conv1, first.downsample[0]])
    for layer, dilation in ((net.layer3, 2), (net.layer4, 4)):
        layer[0].downsample[0].stride = (1, 1)
        for block in layer:
            block.conv2.stride = (1, 1)
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    layers = [nn.Sequential(*stem, net.maxpool), net.layer1, net.layer2, net.layer3, net.layer4]
    return Backbone(layers, CHANNELS, classes)
