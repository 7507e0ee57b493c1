"""Backbones with one interface: images -> layer2, layer3 and layer4 features -> class logits.

Grids at an image of side S (rounded as convolutions do), and channels of layer2, layer3, layer4:

| name          | strides  | channels        | layers                                                        |
| ------------- | -------- | --------------- | ------------------------------------------------------------- |
| resnet50, 101 | 8 16 32  | 512 1024 2048   | torchvision's                                                 |
| resnet50-bam  | 8 8 8    | 512 1024 2048   | BAM's: stem of three 3x3 convolutions, layer3, layer4 dilated |
| vgg16-bam     | 16 16 16 | 256 512 512     | VGG-16 with BN in BAM's blocks; layer2 is resized to layer3   |
| squeezenet1_1 | 8 16 16  | 256 384 512     | features 6-7, 8-10, 11-12                                     |
| small         | 4 8 8    | 32 64 128       | for the embedded data set, see `small`                        |
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2r.config import schema as params


class Backbone(nn.Module):
    """Five feature layers and a classifier.

    Attributes:
        layer0 ... layer4: the layers; layer4 takes x3 and gives x4.
        fc: linear classifier, channels[2] -> classes; None where the weights came without one.
        channels: of layer2, layer3, layer4.
        linear_head: logits are linear in x4 (fc of the global average pool). Otherwise (SqueezeNet) fc and a
            ReLU are applied in every cell and averaged afterwards.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        channels: tuple[int, int, int],
        classes: int,
        linear_head: bool = True,
        resize_layer2: bool = False,
    ) -> None:
        super().__init__()
        self.layer0, self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.fc: nn.Linear | None = nn.Linear(channels[2], classes)
        self.channels = channels
        self.linear_head = linear_head
        self.resize_layer2 = resize_layer2

    @property
    def classifier(self) -> nn.Linear:
        """`fc`.

        Raises:
            ValueError: there is none.
        """
        if self.fc is None:
            raise ValueError("the backbone's weights have no classifier (fc.*), which CAM cannot do without")
        return self.fc

    def to_layer3(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (N, 3, H, W) -> x2 (N, c2, h2, w2) and x3 (N, c3, h, w)."""
        x2 = self.layer2(self.layer1(self.layer0(images)))
        x3 = self.layer3(x2)
        if self.resize_layer2:
            x2 = F.interpolate(x2, x3.shape[-2:], mode="bilinear", align_corners=True)
        return x2, x3

    def logits(self, x4: Tensor) -> Tensor:
        """Class logits (N, classes) of layer4 features (N, c4, h4, w4).

        Raises:
            ValueError: there is no classifier.
        """
        fc = self.classifier
        if self.linear_head:
            return fc(x4.mean((2, 3)))
        return F.relu(fc(x4.flatten(2).transpose(1, 2))).mean(1)

    def classify(self, images: Tensor) -> Tensor:
        """Class logits (N, classes) of normalised images (N, 3, H, W)."""
        return self.logits(self.layer4(self.to_layer3(images)[1]))

    forward = classify


def build_backbone(options: params.Backbone, classes: int = 1000, dense: bool = True) -> Backbone:
    """The backbone `options.name`, initialised at random.

    Args:
        classes: of the classifier.
        dense: False gives `small` its strided layer4, for pretraining on crops. The weights fit both.
    """
    name = options.name
    if name == "small":
        return small(classes, dense)
    if name == "squeezenet1_1":
        return squeezenet(classes)
    if name == "vgg16-bam":
        return vgg16_bam(classes)
    if name.endswith("-bam"):
        return resnet_bam(name.removesuffix("-bam"), classes)
    return resnet(name, options.stride_at, classes)


def resnet(name: str, stride_at: str, classes: int) -> Backbone:
    """torchvision's `resnet50` or `resnet101`, undilated.

    Args:
        stride_at: where the stride of a bottleneck stands: "3x3" (torchvision) or "1x1" (He et al., the
            first convolution).
    """
    from i2r.nets.backbone.torchvision_ops import torchvision  # not at the top: it takes seconds

    net = getattr(torchvision.models, name)(weights=None, num_classes=1)
    if stride_at == "1x1":
        for layer in (net.layer2, net.layer3, net.layer4):
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return Backbone([stem, net.layer1, net.layer2, net.layer3, net.layer4], (512, 1024, 2048), classes)


def resnet_bam(name: str, classes: int) -> Backbone:
    """BAM's `resnet50` or `resnet101`: deep stem, no stride in layer3 and layer4 but dilation 2 and 4.

    Every block of a dilated layer, the first included, has the new dilation (torchvision's own
    `replace_stride_with_dilation` leaves the first block the old one).
    """
    from i2r.nets.backbone.torchvision_ops import torchvision

    net = getattr(torchvision.models, name)(weights=None, num_classes=1)
    stem: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 64, 2), (64, 64, 1), (64, 128, 1)):
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        stem += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    first = net.layer1[0]
    first.conv1 = nn.Conv2d(128, 64, 1, bias=False)
    first.downsample[0] = nn.Conv2d(128, 256, 1, bias=False)
    for module in [*stem, first.conv1, first.downsample[0]]:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for layer, dilation in ((net.layer3, 2), (net.layer4, 4)):
        layer[0].downsample[0].stride = (1, 1)
        for block in layer:
            block.conv2.stride = (1, 1)
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    layers = [nn.Sequential(*stem, net.maxpool), net.layer1, net.layer2, net.layer3, net.layer4]
    return Backbone(layers, (512, 1024, 2048), classes)


def vgg16_bam(classes: int) -> Backbone:
    """VGG-16 with BN in BAM's blocks; each of the first four ends in its pooling, the last has none.

    `fc` is no part of VGG: no weights are published for a classifier on the global average pool of its
    features, so a CAM needs a classifier that was trained here.
    """
    from i2r.nets.backbone.torchvision_ops import torchvision

    parts = torchvision.models.vgg16_bn(weights=None, num_classes=1).features
    cuts = (0, 7, 14, 24, 34, 43)
    layers = [nn.Sequential(*parts[start:end]) for start, end in pairwise(cuts)]
    return Backbone(layers, (256, 512, 512), classes, resize_layer2=True)


def squeezenet(classes: int) -> Backbone:
    """torchvision's SqueezeNet 1.1, cut where its grid halves; layer4 keeps layer3's grid."""
    from i2r.nets.backbone.torchvision_ops import torchvision

    parts = torchvision.models.squeezenet1_1(weights=None).features
    layers = [parts[0:3], parts[3:6], parts[6:8], parts[8:11], parts[11:13]]
    return Backbone([nn.Sequential(*layer) for layer in layers], (256, 384, 512), classes, linear_head=False)


def small(classes: int, dense: bool = True) -> Backbone:
    """A residual network of 0.5 M weights that one CPU core can train in a minute or two.

    Args:
        dense: layer4 at stride 8, dilated, for episodes; False: at stride 16, for pretraining on crops. The
            dense form gives, in every second cell, what the strided one gives there (but for the border).
    """
    stem = nn.Sequential(
        GradientChannels(), nn.Conv2d(6, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)
    )
    deep = ResidualBlock(64, 128, 1, 2) if dense else ResidualBlock(64, 128, 2, 1)
    layers = [
        stem,
        nn.MaxPool2d(3, 2, 1),
        nn.Sequential(ResidualBlock(32, 32, 1), ResidualBlock(32, 32, 1)),
        nn.Sequential(ResidualBlock(32, 64, 2), ResidualBlock(64, 64, 1), ResidualBlock(64, 64, 1)),
        nn.Sequential(deep),
    ]
    net = Backbone(layers, (32, 64, 128), classes)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


class GradientChannels(nn.Module):
    """Images (N, 3, H, W) -> (N, 6, H, W): beside each colour its gradient magnitude, by central differences.

    Made by hand, not learned: from the colours alone the small network does not learn to tell the embedded
    data set's objects, whose colours and textures say nothing about their class, within minutes.
    """

    def forward(self, images: Tensor) -> Tensor:
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
        dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        return torch.cat([images, (dx.square() + dy.square()).sqrt()], 1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norms, added to the input (projected where shape differs)."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))
