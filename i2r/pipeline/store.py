"""Where results lie, whether they are whole, and the readable view of them.

results/store/<step>/<key>/ is append-only: a finished result never moves and is never overwritten by another's.
results/<experiment>/<step>/<label>/ is a view of hard links that people open and DVC tracks. A view that came by
`dvc checkout` is as good as the store, which is filled from it before anything runs.
"""

from __future__ import annotations

import os
import shutil
import stat
from functools import cache
from pathlib import Path
from typing import Any

from i2r.files import canonical, digest_of, read_json, sha256, write_json
from i2r.pipeline.plan import RESULTS, Plan
from i2r.pipeline.spec import Input, Spec
from i2r.pipeline.steps import STEPS

MANIFEST = "manifest.json"
# All that a job leaves in a folder; every other file there is a user's own.
OURS = {MANIFEST, *(name for step in STEPS.values() for name in (*step.products, *step.folders))}


# --- one result ----------------------------------------------------------------------------------------------


def manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a folder; None where there is none that can be read."""
    try:
        values = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return None
    parts = (
        [values.get(name) for name in ("spec", "products", "sizes")] if isinstance(values, dict) else [None]
    )
    if not all(isinstance(part, dict) for part in parts):
        return None
    spec, products, sizes = parts
    whole = spec.get("step") in STEPS and spec.get("key") and products.keys() == sizes.keys()
    return values if whole else None


def products_digest(values: dict[str, Any]) -> str:
    """Of the products that a manifest names: what the results made from them were made from."""
    return digest_of(canonical(values["products"]))


def problem(folder: Path, key: str, content: bool = False) -> str | None:
    """What is wrong with a result, in a sentence; None if it is whole.

    Args:
        content: compare the products' hashes, not their sizes alone.
    """
    if not folder.is_dir():
        return f"{folder}: missing"
    values = manifest(folder)
    if values is None:
        what = "cannot be read" if (folder / MANIFEST).exists() else "missing"
        return f"{folder / MANIFEST}: {what}"
    if values["spec"].get("key") != key:
        return f"{folder / MANIFEST}: belongs to the job {values['spec'].get('key')}, not {key}"
    for name, digest in values["products"].items():
        path = folder / name
        if not path.exists():
            return f"{path}: missing"
        if size_of(path) != values["sizes"][name]:
            return f"{path}: has another size than when it was made"
        if content and sha256(path) != digest:
            return f"{path}: is not what was made"
    return None


def size_of(path: Path) -> int:
    """Bytes of a file; of a folder the number of files below it, for sizes of many files take long to read."""
    if path.is_dir():
        return sum(1 for file in path.rglob("[!.]*") if file.is_file())
    return path.stat().st_size


# --- the results of a plan -----------------------------------------------------------------------------------


class Located:
    """Where each job of a plan has its result, and what is wrong with it."""

    def __init__(self, plan: Plan, results: Path = RESULTS) -> None:
        self.plan, self.results = plan, results
        self._problem = cache(self._find_problem)
        self.folder = cache(self._find_folder)

    def _find_folder(self, key: str) -> Path:
        """The store's folder, or a view where only that has the result."""
        spec = self.plan.jobs[key]
        own = self.results / spec.folder
        if manifest(own) is None:
            for view in self.plan.views(key):
                if problem(self.results / view, key) is None:
                    return self.results / view
        return own

    def _find_problem(self, key: str) -> str | None:
        spec = self.plan.jobs[key]
        if wrong := problem(self.folder(key), key):
            return wrong
        recorded = manifest(self.folder(key)).get("inputs", {})
        for role, given in spec.inputs.items():
            made = manifest(self.folder(given.key)) if given.key in self.plan.jobs else None
            if made is not None and role in recorded and recorded[role] != products_digest(made):
                return f"{self.folder(key)}: its {given.step} has been made again since, with another outcome"
        return None

    def problem(self, spec: Spec) -> str | None:
        """What is wrong with a job's result, or with what it was made from; None if all is well."""
        return self._problem(spec.key)

    def done(self, spec: Spec) -> bool:
        return spec.key in self.plan.jobs and self.problem(spec) is None

    def state(self, spec: Spec) -> str:
        """done, again (it is there but not whole), started (goes on from its saved state) or to do."""
        if self.problem(spec) is None:
            return "done"
        if (self.folder(spec.key) / MANIFEST).exists():
            return "again"
        return "started" if (self.results / "state" / spec.key).is_dir() else "to do"

    def files(self, spec: Spec) -> list[str]:
        """Manifest and products of a job, where they are or will be."""
        return self.needed(Input(spec.step, spec.key))

    def needed(self, given: Input) -> list[str]:
        """Manifest and products of an input, where they are or will be; it may be another plan's."""
        known = given.key in self.plan.jobs
        folder = self.folder(given.key) if known else self.results / given.folder
        return [str(folder / name) for name in (MANIFEST, *STEPS[given.step].products)]

    def again(self, spec: Spec) -> list[str]:
        """For a result that is there but not whole: a file newer than it, which makes Snakemake make it again."""
        if spec.key not in self.plan.jobs or self.state(spec) != "again":
            return []
        path = self.results / "specs" / "again" / f"{spec.key}.json"
        newest = max(file.lstat().st_mtime for file in self.folder(spec.key).iterdir())
        if not path.is_file() or path.stat().st_mtime <= newest:
            # the time is in it since Snakemake knows a small file by its content, too
            write_json(path, {"again": self.problem(spec), "after": newest})
            os.utime(path, (newest + 1, newest + 1))
        return [str(path)]


# --- views ---------------------------------------------------------------------------------------------------


def fill(experiment: str, results: Path = RESULTS) -> None:
    """Take what only the view of an experiment has into the store."""
    for folder in _results_below(results / experiment):
        values = manifest(folder)
        if values is None:
            continue
        spec = values["spec"]
        own = results / Input(spec["step"], spec["key"]).folder
        if manifest(own) is None and problem(folder, spec["key"]) is None:
            link(folder, own, values)


def check(plan: Plan, jobs: list[Spec], results: Path = RESULTS) -> list[str]:
    """Compare results byte by byte with what was made; return what is wrong, a sentence each.

    Planning looks at sizes alone, so a manifest goes whose products have the right sizes and another content: then
    the result is taken from its other copy, or made again.
    """
    found = []
    for spec in jobs:
        for folder in (results / name for name in (spec.folder, *plan.views(spec.key))):
            if problem(folder, spec.key) is None and (wrong := problem(folder, spec.key, content=True)):
                (folder / MANIFEST).unlink()
                found.append(wrong)
    return found


def shown(plan: Plan, results: Path = RESULTS) -> bool:
    """Whether the view of an experiment is what its plan says, as far as results are there."""
    return not _differences(plan, results)


def show(plan: Plan, results: Path = RESULTS) -> None:
    """Make the view of an experiment what its plan says: link what is done, remove what is not in the plan.

    Nothing is lost by that: what is removed is in the store, and files that no job made stay.
    """
    fill(plan.experiment, results)
    for folder, key in _differences(plan, results).items():
        if key is not None:
            own = results / plan.jobs[key].folder
            link(own, folder, manifest(own))
        elif folder.exists():
            _clear(folder)
            if not any(folder.iterdir()):
                folder.rmdir()


def _differences(plan: Plan, results: Path) -> dict[Path, str | None]:
    """Folders of the view that are not what they should be, with the key of what belongs there (None: nothing)."""
    wanted = {results / view: spec.key for view, spec in plan.named().items()}
    found: dict[Path, str | None] = {}
    for folder in _results_below(results / plan.experiment):
        if folder not in wanted:
            found[folder] = None
    for folder, key in wanted.items():
        made, seen = manifest(results / plan.jobs[key].folder), manifest(folder)
        if made is not None and (seen != made or problem(folder, key)):
            found[folder] = key
        elif made is None and seen is not None and seen["spec"].get("key") != key:
            found[folder] = None
    return found


def _results_below(home: Path) -> list[Path]:
    """Folders with a manifest in the view of an experiment."""
    return [
        path.parent for depth in ("*", "*/*", "*/*/*") for path in sorted(home.glob(f"{depth}/{MANIFEST}"))
    ]


def link(source: Path, target: Path, values: dict[str, Any]) -> None:
    """Hard links of a result in another folder, or copies where the system has none; a user's own files stay."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in (*values["products"], MANIFEST):
        path = source / name
        if path.is_dir():
            shutil.copytree(
                path, temporary / name, copy_function=_link_file, ignore=shutil.ignore_patterns(".*")
            )
        else:
            _link_file(path, temporary / name)
    if target.exists():
        _clear(target)
        for path in target.iterdir():
            path.replace(temporary / path.name)
        target.rmdir()
    temporary.replace(target)


def _clear(folder: Path) -> None:
    """Remove what a job left in a folder, the manifest first."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name != MANIFEST):
        if path.name in OURS:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _link_file(source: str | Path, target: str | Path) -> None:
    """A hard link of a file, of what a symbolic link points to."""
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)
        os.chmod(target, stat.S_IMODE(os.stat(real).st_mode) | stat.S_IWUSR)
