"""Import torchvision only by `from i2r.nets.backbone.torchvision_ops import torchvision`.

torchvision's wheel in the package registry is a CUDA build. With a CPU-only torch its library of operators does not
load, and `import torchvision` (as well as `import pytorch_grad_cam`) fails with `operator torchvision::nms does not
exist`. This package does not call these operators, so it is enough to declare their schemas first: models, weights and
transforms then work; `torchvision.io` and `ops.nms` do not.
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
    """Load torchvision's operators or, if they do not fit this torch, declare them.

    Returns:
        The library of declared operators, which must be kept alive, or None if the real ones were loaded.

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
