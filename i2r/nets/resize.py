"""Bilinear and nearest resizing of maps with any leading dimensions (docs/method.md 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def bilinear(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(..., h, w) -> (..., *size) float, corners aligned; unchanged if the size is right already."""
    maps = maps if maps.is_floating_point() else maps.float()
    if maps.shape[-2:] == tuple(size):
        return maps
    # On a GPU the kernel for one channel goes through the images one by one, and that for channels last does not.
    flat = maps if maps.is_cuda and maps.dim() == 4 else maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, size, mode="bilinear", align_corners=True).view(*maps.shape[:-2], *size)


def nearest(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(..., h, w) -> (..., *size) of the same dtype, by torch's `nearest` (floor), not `nearest-exact`."""
    if maps.shape[-2:] == tuple(size):
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    if not flat.is_floating_point():  # torch can resize uint8, which holds 0, 1, 255, but not int16
        flat = flat.float() if flat.dtype == torch.int16 else flat.to(torch.uint8)
    return F.interpolate(flat, size, mode="nearest").to(maps.dtype).view(*maps.shape[:-2], *size)
