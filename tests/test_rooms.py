"""What modules of the package import of one another: the rooms of CONTRIBUTING.md, and no circle."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from conftest import ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.glob("i2r/**/*.py")
}


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, also inside functions and for type hints alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & MODULES.keys() or {node.module}
    return found & MODULES.keys()


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def test_no_module_imports_itself_through_others():
    order = list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the circle
    assert len(order) == len(MODULES) > 100


def test_a_room_imports_from_those_above_it_only():
    rooms = re.findall(r"\| `i2r/(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(rooms) > 5
    room_of = {name: parts[1] for name in MODULES if len(parts := name.split(".")) > 1 and parts[1] in rooms}
    wrong = [
        f"{name} imports {other}"
        for name, room in room_of.items()
        for other in IMPORTS[name]
        if other in room_of and rooms.index(room_of[other]) > rooms.index(room)
    ]
    assert not wrong
