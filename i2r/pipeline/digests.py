"""Whether the code of a step changed: a digest of what its modules do, comments and docstrings left out."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from i2r.pipeline.jobs import FUNCTIONS, VERSIONS

PACKAGE = Path(__file__).parents[1]
# What carries jobs, or shows their progress, and makes none of their numbers.
CARRIERS = {
    "i2r",
    "i2r.cli",
    "i2r.pipeline.digests",
    "i2r.files",
    "i2r.pipeline.jobs",
    "i2r.config.schema",
    "i2r.pipeline.plan",
    "i2r.progress",
    "i2r.pipeline.stages",
}


def modules(step: str) -> list[str]:
    """The modules of this package that a step uses, sorted."""
    found: set[str] = set()
    todo = [FUNCTIONS[step].split(":")[0]]
    while todo:
        name = todo.pop()
        if name not in found and name not in CARRIERS:
            found.add(name)
            todo += _imports(name)
    return sorted(found)


def digest(step: str) -> str:
    """A hash of the code of all modules that a step uses."""
    text = "\n".join(f"{name} {content(_tree(name))}" for name in modules(step))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record() -> dict[str, dict]:
    """Version and digest of every step."""
    return {step: {"version": VERSIONS[step], "digest": digest(step)} for step in FUNCTIONS}


def path_of(module: str) -> Path | None:
    """The file of a module of this package, None if it is no module."""
    base = PACKAGE.joinpath(*module.split(".")[1:])
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _tree(module: str) -> ast.Module:
    path = path_of(module)
    if path is None:
        raise FileNotFoundError(f"{module}: no such module of i2r")
    return ast.parse(path.read_text())


def _imports(module: str) -> list[str]:
    """Modules of this package that a module imports, their packages included."""
    names = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in names if name.split(".")[0] == "i2r"}
    ours |= {".".join(name.split(".")[:end]) for name in ours for end in range(2, name.count(".") + 1)}
    return sorted(name for name in ours if path_of(name))


def content(tree: ast.Module) -> str:
    """What a module does, without docstrings (comments are no part of a tree)."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0].value
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                del body[0]
    return ast.dump(tree)
