"""The tables and figures of the paper as targets of any experiment: methods and targets of i2r/paper/*.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

Values = dict[str, Any]


@cache
def paper_files() -> dict[str, Values]:
    """NAME -> the content of i2r/paper/NAME.yaml, in the order of the paper.

    A table or figure has `title`, `where` (in the paper), `data` (its source, null: several or none) and `target`.
    """
    found = sorted(files("i2r.paper").iterdir(), key=lambda file: _place(file.name))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {
        file.name.removesuffix(".yaml"): yaml.load(file.read_text(encoding="utf-8"), loader)
        for file in found
        if file.name.endswith(".yaml")
    }


def _place(name: str) -> tuple[bool, bool, bool, str]:
    """Tables before figures before others, and those of the supplement after the others."""
    table, figure = name.startswith("table"), name.startswith("figure")
    return not table, not figure, "-s" in name, name


def paper_targets() -> dict[str, Values]:
    """Name -> the target of each table and figure."""
    return {name: content["target"] for name, content in paper_files().items() if "target" in content}


def paper_methods() -> dict[str, Values]:
    """Name -> the method's own values, and `needs`: values that the experiment must have for it to make sense."""
    return {
        name: method
        for content in paper_files().values()
        for name, method in content.get("methods", {}).items()
    }


def unmet(needs: Mapping[str, Any], sections: Values) -> str | None:
    """`backbone.name is small, not resnet50`: the first value that a method needs and the experiment lacks."""
    for key, wanted in needs.items():
        found: Any = sections
        for part in key.split("."):
            found = found[part]
        if found != wanted:
            return f"{key} names a file" if wanted is None else f"{key} is {found}, not {wanted}"
    return None
