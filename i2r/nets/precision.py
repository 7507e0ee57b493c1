"""The precision of computations that autocast must not lower."""

from __future__ import annotations

import torch


def full(x: torch.Tensor) -> torch.Tensor:
    """x as float32, or unchanged if it is float64; any shape."""
    return x if x.dtype == torch.float64 else x.float()
