"""The device that a network runs on, and what it does."""

from __future__ import annotations

import torch

from i2r.errors import InputError


def recording(device: torch.device) -> bool:
    """Whether the work given to this device is being recorded as a CUDA graph, so that no value of it can be read."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def open_device(name: str, where: str) -> torch.device:
    """The device called auto (a GPU if there is one), cpu, cuda or cuda:N.

    Args:
        where: what gave the name, for messages.

    Raises:
        InputError: the name is another, or there is no such GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"{where} must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        sees = f"only {count} GPU(s), counted from cuda:0" if count else "no GPU; use cpu or auto"
        raise InputError(f"{where} is {name!r}, but torch sees {sees}")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"{where} must be auto, cpu, cuda or cuda:N, got {name!r}")
    return device
