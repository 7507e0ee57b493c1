"""Copies of the project: one whose steps are real, and one in which every step is instant, where what is tested is
the way that jobs are planned and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from i2r.pipeline.jobs import FUNCTIONS

ROOT = Path(__file__).parents[1]
WORKFLOW = (
    "Snakefile",
    "dvc.yaml",
    ".dvcignore",
    ".dvc/config",
    ".gitignore",
    "envs",
    "workflow",
    "profiles",
    "i2r",
)


@dataclass(frozen=True)
class Toy:
    """A project folder."""

    folder: Path

    def run(self, *command: str, code: int = 0) -> str:
        """Output of a command; `snakemake`, `dvc` and `i2r` are those of this environment, on this folder's code."""
        done = subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        output = done.stdout + done.stderr
        assert done.returncode == code, f"{' '.join(command)} ended with {done.returncode}:\n{output[-6000:]}"
        return output

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        names = {
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@t",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@t",
        }
        return os.environ | names | {"PATH": path, "PYTHONPATH": str(self.folder)}

    def change(self, **sections: dict[str, Any]) -> None:
        """Set values of params.yaml."""
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        for section, change in sections.items():
            values[section] |= change
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def ran(self) -> Counter[str]:
        """How often each step ran since this was asked last."""
        path = self.folder / "ran.txt"
        text = path.read_text() if path.is_file() else ""
        path.unlink(missing_ok=True)
        return Counter(line.split()[0] for line in text.splitlines())

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", "a state", "--allow-empty")


def make_copy(folder: Path) -> Toy:
    """A copy with the `tiny` preset for its params.yaml."""
    for name in WORKFLOW:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    shutil.copy(ROOT / "workflow/presets/tiny.yaml", folder / "params.yaml")
    return Toy(folder)


def make_toy(folder: Path) -> Toy:
    toy = make_copy(folder)
    step = (ROOT / "tests" / "toy_step.py").read_text()
    for module in {function.split(":")[0] for function in FUNCTIONS.values()} | {
        "i2r.tracking.mlflow_import"
    }:
        path = folder / (module.replace(".", "/") + ".py")
        path.write_text(step)
        for package in path.relative_to(folder).parents:  # the steps' packages import nothing heavy either
            if package != Path("i2r") and (folder / package / "__init__.py").is_file():
                (folder / package / "__init__.py").write_text("")
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text() + "ran.txt\nslow\n")
    toy.change(run={"folds": [0], "methods": ["i2r"]})
    toy.run("git", "init", "-q")
    toy.commit()
    return toy


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    yield make_toy(tmp_path / "toy")


@pytest.fixture
def real(tmp_path: Path) -> Toy:
    """A copy with the real steps, and `tiny` for its params."""
    return make_copy(tmp_path / "real")


@pytest.fixture(scope="session")
def new_toy() -> Callable[[Path], Toy]:
    return make_toy
