"""The precision of parts that autocast must not touch."""

from __future__ import annotations

import torch


def full(x: torch.Tensor) -> torch.Tensor:
    """In float32, or as it is in float64; any shape."""
    return x if x.dtype == torch.float64 else x.float()
