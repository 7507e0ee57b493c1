"""The base learner: PSPNet on layer4 (docs/method.md 2.1). State names are the published ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """x4 (N, c4, h, w) -> (N, 2 c4, h, w): x4 and its averages over 1, 4, 9 and 36 bins."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(bins),
                nn.Conv2d(channels, channels // 4, 1, bias=False),
                nn.BatchNorm2d(channels // 4),
                nn.ReLU(inplace=True),
            )
            for bins in BINS
        )

    def forward(self, x4: Tensor) -> Tensor:
        pooled = [
            F.interpolate(part(x4), x4.shape[-2:], mode="bilinear", align_corners=True)
            for part in self.features
        ]
        return torch.cat([x4, *pooled], 1)


class PSPNet(nn.Module):
    """Layer4 features -> logits of background and the base classes.

    Args:
        channels: c4 of the backbone, a multiple of 4.
        classes: number of base classes, without background.
        width: output channels of the 3x3 convolution; published: 512.
        dropout: before the classifier; published: 0.1.
    """

    def __init__(self, channels: int, classes: int, width: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        self.ppm = PyramidPooling(channels)
        self.cls = nn.Sequential(
            nn.Conv2d(2 * channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, classes + 1, 1),
        )

    def forward(self, x4: Tensor) -> Tensor:
        """x4 (N, c4, h4, w4) -> logits (N, classes + 1, h4, w4), not resized; channel 0 is background."""
        return self.cls(self.ppm(x4))
