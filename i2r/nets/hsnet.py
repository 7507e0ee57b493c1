"""HSNet (Min, Kang, Cho: Hypercorrelation Squeeze for Few-Shot Segmentation, ICCV 2021), written from the paper.

Features of every block of layers 2 to 4 of the query are correlated with masked features of the same block of a
support. 4D convolutions squeeze the support's dimensions of these hypercorrelations, level by level, and a 2D decoder
predicts the mask. Each shot gives a prediction; several predictions are averaged in training and vote at test.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2r.config.networks import HSNetOptions
from i2r.nets.backbone.base import Layout
from i2r.nets.encoder import EpisodeInputs
from i2r.nets.output import Output, query_target, two_class_loss
from i2r.nets.precision import full
from i2r.nets.resize import bilinear

EPS = 1e-5  # of the features' norms
GROUPS = 4  # of the group norms
# (side of the kernel, stride in the support's dimensions) of the squeezing convolutions of layers 2, 3 and 4
SQUEEZE = (((5, 4), (5, 4), (3, 2)), ((5, 4), (3, 2), (3, 2)), ((3, 2), (3, 2), (3, 2)))
MIX = ((3, 1), (3, 1), (3, 1))
TIE = 1e-3  # makes exactly half of the largest vote foreground


class CenterPivotConv4d(nn.Module):
    """A 4D convolution whose kernel is zero except where the query's or the support's offset is zero (paper 4.2).

    This is the sum of a 2D convolution over the query's dimensions and one over the support's.

    Args:
        side: of the kernel, odd. stride: in the support's dimensions.
    """

    def __init__(self, inputs: int, outputs: int, side: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.query = nn.Conv2d(inputs, outputs, side, 1, side // 2)
        self.support = nn.Conv2d(inputs, outputs, side, stride, side // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, hq, wq, hs, ws) -> (N, outputs, hq, wq, hs', ws')."""
        pivots = x[..., :: self.stride, :: self.stride]
        over_query = _conv2d(self.query, pivots.permute(0, 4, 5, 1, 2, 3)).permute(0, 3, 4, 5, 1, 2)
        over_support = _conv2d(self.support, x.permute(0, 2, 3, 1, 4, 5)).permute(0, 3, 1, 2, 4, 5)
        return over_query + over_support


class HSNet(nn.Module):
    """The meta learner of HSNet."""

    def __init__(self, options: HSNetOptions, layout: Layout, shots: int) -> None:
        super().__init__()
        self.options = options
        self.blocks = layout.blocks
        _, middle, wide = options.channels
        self.squeeze = nn.ModuleList(
            _layers(blocks, options.channels, kernels)
            for blocks, kernels in zip(layout.blocks, SQUEEZE, strict=True)
        )
        self.mix = nn.ModuleList(
            _layers(wide, (wide, wide, wide), MIX) for _ in range(2)
        )  # to layers 2 and 3
        self.decoder1 = nn.Sequential(_conv3x3(wide, wide), nn.ReLU(), _conv3x3(wide, middle), nn.ReLU())
        self.decoder2 = nn.Sequential(_conv3x3(middle, middle), nn.ReLU(), _conv3x3(middle, 2))

    def forward(self, inputs: EpisodeInputs) -> Output:
        """Segment B queries, given K shots each; there is one loss, `main`."""
        shots, size = inputs.masks_s.shape[1], inputs.masks_s.shape[-2:]
        each = torch.stack([self.shot(inputs, k) for k in range(shots)], 1)  # (B, K, 2, h, w)
        logits = each.mean(1)
        output = Output(final_logits=bilinear(full(logits), size), meta_logits=logits)
        if inputs.supervised:
            target = query_target(inputs.mask_q, self.options.ignore)
            output.losses = {"main": two_class_loss(logits, target)}
        if shots > 1 and not self.training:
            output.final_logits = vote(bilinear(full(each), size))
        return output

    def shot(self, inputs: EpisodeInputs, k: int) -> Tensor:
        """Logits (B, 2, h, w) from support k alone, on twice the grid of layer2."""
        supports = [features[:, k] for features in inputs.pyramid_s]
        levels = hypercorrelations(inputs.pyramid_q, supports, inputs.masks_s[:, k], self.blocks)
        coarse = None
        for level in (2, 1, 0):  # top down
            x = self.squeeze[level](levels[level])
            coarse = x if coarse is None else self.mix[level](_like(coarse, x) + x)
        x = self.decoder1(coarse.mean((-2, -1)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return self.decoder2(x)


def hypercorrelations(
    query: Sequence[Tensor], support: Sequence[Tensor], masks: Tensor, blocks: Sequence[int]
) -> list[Tensor]:
    """Rectified cosines between all cells of query and support, with a channel for each block.

    Args:
        query, support: outputs of the blocks (B, C, h, w), from layer2 to layer4.
        masks: of the supports (B, S, S), 1 on the object.
        blocks: number of blocks of each layer.

    Returns:
        For each layer (B, blocks, h, w, h, w): the query's dimensions, then the support's.
    """
    target = (masks == 1)[:, None]
    levels, start = [], 0
    for count in blocks:
        size = query[start + count - 1].shape[-2:]  # blocks of one layer may have different grids
        maps = []
        for own, other in zip(query[start : start + count], support[start : start + count], strict=True):
            own, other = bilinear(own, size), bilinear(other, size)
            other = other * bilinear(target, size)
            cosines = _unit(own).transpose(1, 2) @ _unit(other)  # (B, h * w, h * w)
            maps.append(cosines.clamp(min=0).unflatten(2, size).unflatten(1, size))
        levels.append(torch.stack(maps, 1))
        start += count
    return levels


def vote(logits: Tensor) -> Tensor:
    """Logits of the shots (B, K, 2, H, W) -> scores (B, 2, H, W) from their votes.

    A pixel is foreground if it has at least half as many votes as the pixel with most votes (paper 4.4).
    """
    votes = logits.argmax(2).sum(1)  # (B, H, W)
    share = (votes / votes.amax((-2, -1), keepdim=True).clamp(min=1)).to(logits.dtype)
    return torch.stack([1 - share - TIE, share], 1)


def _unit(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, h * w), cells of norm 1, or 0 where all features are 0."""
    cells = maps.flatten(2)
    return cells / (cells.norm(dim=1, keepdim=True) + EPS)


def _conv2d(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A 2D convolution over the last two dimensions: (N, a, b, C, h, w) -> (N, a, b, C', h', w')."""
    return layer(x.flatten(0, 2)).unflatten(0, x.shape[:3])


def _layers(inputs: int, outputs: Sequence[int], kernels: Sequence[tuple[int, int]]) -> nn.Sequential:
    """Three centre-pivot convolutions, each with group norm and ReLU."""
    parts: list[nn.Module] = []
    for (before, after), (side, stride) in zip(pairwise((inputs, *outputs)), kernels, strict=True):
        parts += [CenterPivotConv4d(before, after, side, stride), nn.GroupNorm(GROUPS, after), nn.ReLU()]
    return nn.Sequential(*parts)


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _like(coarse: Tensor, fine: Tensor) -> Tensor:
    """(N, C, hq, wq, hs, ws) resized to the grids of `fine`: the query's bilinearly, the support's by averaging.

    At the paper's 400 pixels all levels end with 2 x 2 support cells; at other sizes they may differ.
    """
    x = coarse.permute(0, 4, 5, 1, 2, 3)  # (N, hs, ws, C, hq, wq)
    x = bilinear(x, fine.shape[2:4]).permute(0, 4, 5, 3, 1, 2)  # (N, hq, wq, C, hs, ws)
    if x.shape[-2:] != fine.shape[-2:]:
        lead = x.shape[:4]
        x = F.adaptive_avg_pool2d(x.flatten(0, 2), fine.shape[-2:]).view(*lead, *fine.shape[-2:])
    return x.permute(0, 3, 1, 2, 4, 5)
