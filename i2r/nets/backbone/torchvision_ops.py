"""The one door to torchvision: `from i2r.nets.backbone.torchvision_ops import torchvision`.

Its registry wheel is a CUDA build. Beside a CPU-only torch its library of operators does not load, and
`import torchvision` (and with it `import pytorch_grad_cam`) stops at `operator torchvision::nms does not
exist`. Nothing here calls these operators, so declaring their schemas first is enough: models, weights and
transforms work; `torchvision.io` and `ops.nms` do not.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare_operators() -> torch.library.Library | None:
    """Load torchvision's operators or, where they don't fit this torch, declare them.

    Returns:
        The library of declared operators, which must be kept alive, or None if the real ones are there.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is not installed; see envs/ for the pinned environment")
    for binary in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(binary))
        except OSError:
            continue
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    return library


_library = declare_operators()

import torchvision  # noqa: E402

__all__ = ["torchvision"]
