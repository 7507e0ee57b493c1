"""Functions and classes by the addresses that the registries of config/ hold, such as "package.module:name"."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def find(address: str) -> Any:
    """What stands at "package.module:name"; the module is imported when it is first asked for."""
    module, name = address.split(":")
    return getattr(import_module(module), name)
