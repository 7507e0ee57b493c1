"""I2R: inter- and intra-image refinement for few-shot segmentation, reproduced."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]  # noqa: F822 (see __getattr__)


def __getattr__(name: str) -> Any:
    if name == "load":  # not at the top: it brings torch, and planning has to be quick
        from i2r.predict import load

        return load
    raise AttributeError(f"module 'i2r' has no attribute {name!r}")
