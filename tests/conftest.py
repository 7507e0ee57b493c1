"""Copies of the project: one with the real steps, and one in which every step is instant, for tests of planning and
running jobs."""

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
from official_archives import Server, contents, served_table, serving

from i2r.config.methods import overlay
from i2r.pipeline.steps import STEPS

ROOT = Path(__file__).parents[1]
# At least one job for every step: BAM needs the base learner, the baselines need the CAM head.
TOY_TARGETS = {
    "table1": {"methods": ["bam"], "folds": [0]},
    "table3": {"methods": ["i2r-no-pmgm"], "folds": [0]},
    "table4": {"folds": [0]},
}
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
        """Output of a command; `snakemake`, `dvc` and `i2r` are those of this environment, with this folder's code."""
        done = subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=1200,
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
        """Set values of params.yaml, which extends the preset tiny."""
        path = self.folder / "params.yaml"
        values = overlay(yaml.safe_load(path.read_text()), sections)
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def ran(self) -> Counter[str]:
        """How often each step has run since the last call."""
        path = self.folder / "ran.txt"
        text = path.read_text() if path.is_file() else ""
        path.unlink(missing_ok=True)
        return Counter(line.split()[0] for line in text.splitlines())

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", "a state", "--allow-empty")


def make_copy(folder: Path) -> Toy:
    """A copy whose params.yaml extends the preset `tiny`."""
    for name in WORKFLOW:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    (folder / "params.yaml").write_text("extends: workflow/presets/tiny.yaml\nexperiment: tiny\n")
    return Toy(folder)


def make_toy(folder: Path) -> Toy:
    toy = make_copy(folder)
    step = (ROOT / "tests" / "toy_step.py").read_text()
    for kind in STEPS.values():
        (folder / (kind.function.split(":")[0].replace(".", "/") + ".py")).write_text(step)
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text() + "ran.txt\nslow\noutcome\n")
    toy.change(targets=TOY_TARGETS, evaluate={"controls": 0})
    toy.run("git", "init", "-q")
    toy.commit()
    return toy


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    yield make_toy(tmp_path / "toy")


@pytest.fixture
def real(tmp_path: Path) -> Toy:
    """A copy with the real steps and the params of `tiny`."""
    return make_copy(tmp_path / "real")


@pytest.fixture(scope="session")
def new_toy() -> Callable[[Path], Toy]:
    return make_toy


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of all archives of `official_archives.contents`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = contents()
    with serving() as found:
        found.files = {archive.file: files[name] for name, archive in served_table(files, "").items()}
        yield found
