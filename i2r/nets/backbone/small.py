"""The small backbone for the generated data set, which the pipeline pretrains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2r.config import schema
from i2r.nets.backbone.base import Backbone, initialise


def small(options: schema.Backbone, classes: int, dense: bool = True) -> Backbone:
    """A residual network of 0.5 M weights that one CPU core can train in a minute or two.

    Args:
        dense: layer4 at stride 8, dilated, for episodes; False: at stride 16, for pretraining on crops. Except at the
            border, every second cell of the dense form equals a cell of the strided one.
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
    initialise(net.modules())
    return net


class GradientChannels(nn.Module):
    """Images (N, 3, H, W) -> (N, 6, H, W): the colours and their gradient magnitudes, by central differences.

    The generated objects differ only in shape, which so small a network does not learn within minutes from colours
    alone.
    """

    def forward(self, images: Tensor) -> Tensor:
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
        dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        return torch.cat([images, (dx.square() + dy.square()).sqrt()], 1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norms, added to the input (projected if shapes differ)."""

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
