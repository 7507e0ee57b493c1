"""Digests of the code of each step, without comments and docstrings, which tell whether the code has changed."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from i2r.config.data_set import SOURCES
from i2r.config.experiment import FORMS
from i2r.config.networks import ATTENTION_MASKS, CAMS, NETWORKS, PRIORS, CamOptions
from i2r.config.schema import BACKBONES
from i2r.files import sha256
from i2r.pipeline.steps import STEPS

PACKAGE = Path(__file__).parents[1]
DATA = (".yaml", ".j2", ".css", ".js")  # suffixes of files next to the modules that count as code
# Modules that plan and run jobs or show their progress, but do not influence their numbers.
CARRIERS = ("i2r", "i2r.cli", "i2r.errors", "i2r.files", "i2r.progress", "i2r.config", "i2r.pipeline")


def modules(step: str, params: Mapping[str, Any] | None = None) -> list[str]:
    """The modules of this package that a job of a step uses, sorted.

    Args:
        params: of the job; they choose its network, backbone and data source. Where they are missing, all
            registered ones count.
    """
    found: set[str] = set()
    todo = [place.split(":")[0] for place in (STEPS[step].function, *_registered(step, params or {}))]
    while todo:
        name = todo.pop()
        if name not in found and not _carries(name):
            found.add(name)
            todo += _read(name)[1]
    return sorted(found)


def _registered(step: str, params: Mapping[str, Any]) -> list[str]:
    """Addresses in the registries of config/ that a job uses; all of a registry if its params do not choose."""

    def chosen(section: str, registry: Mapping[str, Any]) -> list[Any]:
        name = params.get(section, {}).get("name" if section != "data" else "source")
        return [registry[name]] if name in registry else list(registry.values())

    if step == "report":
        return list(FORMS.values())
    found = [entry.source for entry in chosen("data", SOURCES)] if step == "data" or STEPS[step].torch else []
    if STEPS[step].torch:
        found += [entry.build for entry in chosen("backbone", BACKBONES)]
    if "network" in STEPS[step].reads:
        networks = chosen("network", NETWORKS)
        if step != "baselines":  # they use the CAMs and priors of networks, but no network
            found += [options.module for options in networks]
        if any(issubclass(options, CamOptions) for options in networks):
            found += [entry.function for kind in (ATTENTION_MASKS, CAMS, PRIORS) for entry in kind.values()]
    return found


def _carries(module: str) -> bool:
    return module in CARRIERS or module.startswith(("i2r.config.", "i2r.pipeline."))


def digest(step: str, params: Mapping[str, Any] | None = None) -> str:
    """A hash of the code of all modules that a job of a step uses; see `modules`."""
    return _digest_of(tuple(modules(step, params)))


@cache
def _digest_of(used: tuple[str, ...]) -> str:
    text = "\n".join(f"{name} {_read(name)[0]}" for name in used)
    folders = {path_of(name).parent for name in used}
    files = sorted(path for folder in folders for kind in DATA for path in folder.glob(f"**/*{kind}"))
    text += "".join(f"\n{path.relative_to(PACKAGE)} {sha256(path)}" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record() -> dict[str, dict]:
    """Version and digest of every step."""
    return {name: {"version": step.version, "digest": digest(name)} for name, step in STEPS.items()}


@cache
def path_of(module: str) -> Path | None:
    """The file of a module of this package; None if there is no such module."""
    base = PACKAGE.joinpath(*module.split(".")[1:])
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _read(module: str) -> tuple[str, list[str]]:
    """The hash of a module's content, and the modules of this package that it imports, with those that contain them."""
    path = path_of(module)
    if path is None:
        raise FileNotFoundError(f"{module}: no such module of i2r")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in names if name.split(".")[0] == "i2r"}
    ours |= {".".join(name.split(".")[:end]) for name in ours for end in range(2, name.count(".") + 1)}
    imported = sorted(name for name in ours if path_of(name))
    return hashlib.sha256(content(tree).encode()).hexdigest(), imported


def content(tree: ast.Module) -> str:
    """A module's syntax tree as text, without docstrings (a syntax tree has no comments); the tree loses them."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0].value
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                del body[0]
    return ast.dump(tree)
