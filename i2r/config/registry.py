"""Finds functions and classes by the addresses in the registries of config/, such as "package.module:name"."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def find(address: str) -> Any:
    """The object at "package.module:name"; the module is imported on first use."""
    module, name = address.split(":")
    return getattr(import_module(module), name)
