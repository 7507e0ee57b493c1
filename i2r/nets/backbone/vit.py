"""A vision transformer in the layout of DINOv2's ViT-S/14 (Oquab et al. 2023), without registers.

State names are those of the published file dinov2_vits14_pretrain.pth, which can be `backbone.weights`. Features of
unmasked images, x2, x3 and x4, are the patch tokens after blocks 6, 9 and 12, each through the final norm, exactly as
DINOv2's `get_intermediate_layers(norm=True)` returns them.

Supports are masked at x4, not at x3: every token has attended to the entire image, and the network was not trained on
tokens set to zero halfway. So the object's features are DINOv2's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2r.config import schema
from i2r.nets.backbone.base import Backbone, Layout, Maps

EPS = 1e-6  # of the layer norms
OFFSET = 0.1  # added to the grid's side when position embeddings are resized, as in DINOv2


def vit_small_14(options: schema.Backbone, classes: int) -> ViT:
    """DINOv2's ViT-S/14; it has no classifier, so `classes` is not used."""
    return ViT(width=384, depth=12, heads=6, patch=14, grid=37)


class ViT(Backbone):
    """Patch tokens as features; all maps have the same grid of cells of `patch` pixels.

    An image whose sides are not multiples of `patch` is first resized to the nearest multiples.

    Args:
        width: channels of every map. depth: number of blocks. heads: of the attention. patch: side of a cell in pixels.
        grid: side of the grid of the stored position embedding.
        per_layer: number of blocks in each of layers 2 to 4, which are the last ones.
    """

    masks_output = True

    def __init__(self, width: int, depth: int, heads: int, patch: int, grid: int, per_layer: int = 3) -> None:
        nn.Module.__init__(self)
        self.fc = None
        self.channels = (width, width, width)
        self.linear_classifier = True
        self.patch, self.grid, self.per_layer = patch, grid, per_layer
        self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid * grid, width).normal_(std=0.02))
        self.mask_token = nn.Parameter(
            torch.zeros(1, width)
        )  # not used; part of the published file, for pretraining
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS)

    @property
    def layout(self) -> Layout:
        return Layout(self.channels, (self.per_layer,) * 3)

    def maps(self, images: Tensor, pyramid: bool = False) -> Maps:
        """Features of normalised images (N, 3, H, W), all of them (N, width, h, w)."""
        height, width = (self.patch * max(1, round(side / self.patch)) for side in images.shape[-2:])
        if images.shape[-2:] != (height, width):
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        x = self.patch_embed["proj"](images)
        size = x.shape[-2:]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        x = x + self.positions(*size)
        outputs = []
        first = len(self.blocks) - 3 * self.per_layer  # earlier blocks belong to none of layers 2 to 4
        for number, block in enumerate(self.blocks):
            x = block(x)
            last = (number + 1 - first) % self.per_layer == 0
            if number >= first and (pyramid or last):
                outputs.append(self.norm(x)[:, 1:].transpose(1, 2).unflatten(2, size))
        x2, x3, x4 = outputs[self.per_layer - 1 :: self.per_layer] if pyramid else outputs
        return Maps(x2, x3, x4, tuple(outputs) if pyramid else None)

    def to_layer3(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """x2 and x3. x4 cannot be computed from x3; `maps` returns all three."""
        maps = self.maps(images)
        return maps.x2, maps.x3

    def masked(self, x3: Tensor, x4: Tensor | None, mask: Tensor) -> Tensor:
        """x4 (N, width, h, w) of the unmasked images, multiplied by the resized mask (N, 1, H, W)."""
        if x4 is None:
            raise ValueError("x4 of the supports is missing, which this backbone masks")
        return x4 * F.interpolate(mask.to(x4.dtype), x4.shape[-2:], mode="bilinear", align_corners=True)

    def positions(self, height: int, width: int) -> Tensor:
        """Position embedding (1, 1 + height * width, C), bicubically resized to the grid, as in DINOv2."""
        if height == width == self.grid:
            return self.pos_embed
        cells = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        scale = ((height + OFFSET) / self.grid, (width + OFFSET) / self.grid)
        cells = F.interpolate(cells, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], cells.flatten(2).transpose(1, 2)], 1)


class Block(nn.Module):
    """x + gamma1 attention(norm(x)), then x + gamma2 MLP(norm(x)); tokens (N, n, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls2 = LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.ls1(self.attn["proj"](attended))
        return x + self.ls2(self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))


class LayerScale(nn.Module):
    """x * gamma, with a learned factor for each channel, initially 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
