"""A network that sees the query alone: what a segmenter of "objects" reaches without any support.

A control, not a method of the paper: the part of a few-shot score that this network has is no evidence that the support
is used.
"""

from __future__ import annotations

from torch import nn

from i2r.config.networks import QueryOnlyOptions
from i2r.nets.backbone.base import Layout
from i2r.nets.encoder import EpisodeInputs
from i2r.nets.output import Output, query_target, two_class_loss
from i2r.nets.precision import full
from i2r.nets.reduce import reduced, reduction
from i2r.nets.resize import bilinear


class QueryOnly(nn.Module):
    """Reduction of layers 2 and 3, two residual blocks, and a classifier of two classes."""

    def __init__(self, options: QueryOnlyOptions, layout: Layout, shots: int):
        super().__init__()
        self.options = options
        self.down_query = reduction(layout.channels, options.width, options.reduce_dropout)
        self.blocks = nn.ModuleList(_block(options.width) for _ in range(2))
        self.classify = nn.Conv2d(options.width, 2, 1)

    def forward(self, inputs: EpisodeInputs) -> Output:
        """Segment B queries; everything of the supports is ignored but the size of their masks."""
        x = reduced(self.down_query, inputs.x2_q, inputs.x3_q)  # (B, d, h, w)
        for block in self.blocks:
            x = x + block(x)
        logits = self.classify(x)  # (B, 2, h, w)
        output = Output(final_logits=bilinear(full(logits), inputs.masks_s.shape[-2:]), meta_logits=logits)
        if inputs.supervised:
            target = query_target(inputs.mask_q, self.options.ignore)
            output.losses = {"main": two_class_loss(logits, target)}
        return output


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
    )
