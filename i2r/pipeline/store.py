"""Where results are, whether they are complete, and the readable view of them.

results/store/<step>/<key>/ is append-only: a finished result is never moved, and never overwritten by another.
results/<experiment>/<step>/<label>/ is a view of hard links for people and for DVC. Results that only a view has,
after `dvc checkout`, are added to the store before anything runs.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from functools import cache
from pathlib import Path
from typing import Any

from i2r.files import canonical, digest_of, read_json, sha256, write_json
from i2r.pipeline.fetched import changed, is_present
from i2r.pipeline.plan import Plan
from i2r.pipeline.spec import RESULTS, Input, Spec
from i2r.pipeline.steps import STEPS

MANIFEST = "manifest.json"
# What jobs write to their folders, beside the products that a manifest names (a report has files of each table). All
# other files there belong to the user.
OURS = {
    MANIFEST,
    *(name for step in STEPS.values() for name in (*step.products, *step.folders, *step.sometimes)),
}


# --- one result ----------------------------------------------------------------------------------------------


def manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a folder; None if it is missing or unreadable."""
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
    complete = spec.get("step") in STEPS and spec.get("key") and products.keys() == sizes.keys()
    return values if complete else None


def products_digest(values: dict[str, Any]) -> str:
    """Digest of the products in a manifest; the results made from them record it for their input."""
    return digest_of(canonical(values["products"]))


def problem(folder: Path, key: str, content: bool = False) -> str | None:
    """A sentence that says why a result is missing or damaged; None if it is complete.

    Args:
        content: compare the products' hashes as well, not only their sizes.
    """
    if not folder.is_dir():
        return f"{folder}: missing"
    values = manifest(folder)
    if values is None:
        what = "cannot be read" if (folder / MANIFEST).exists() else "missing"
        return f"{folder / MANIFEST}: {what}"
    if values["spec"].get("key") != key:
        return f"{folder / MANIFEST}: belongs to the job {values['spec'].get('key')}, not {key}"
    for name in STEPS[values["spec"]["step"]].products:
        if name not in values["products"]:
            return f"{folder}: made by earlier code, which did not write {name}"
    for name, digest in values["products"].items():
        path = folder / name
        if not path.exists():
            return f"{path}: missing"
        if size_of(path) != values["sizes"][name]:
            return f"{path}: damaged, its size has changed"
        if content and sha256(path) != digest:
            return f"{path}: damaged, its content has changed"
    return None


def size_of(path: Path) -> int:
    """Size of a file in bytes; for a folder the number of files below it, which is faster to find."""
    if path.is_dir():
        return sum(1 for file in path.rglob("[!.]*") if file.is_file())
    return path.stat().st_size


# --- the results of a plan -----------------------------------------------------------------------------------


class Located:
    """Folder and state of the result of each job of a plan."""

    def __init__(self, plan: Plan, results: Path = RESULTS) -> None:
        self.plan, self.results = plan, results
        self._problem = cache(self._find_problem)
        self._again = cache(self._find_again)
        self._made = cache(lambda key: manifest(self.folder(key)))
        self.folder = cache(self._find_folder)

    def _find_folder(self, key: str) -> Path:
        """The folder in the store, or in a view if only that has the result."""
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
        recorded = self._made(key).get("inputs", {})
        for role, given in spec.inputs.items():
            made = self._made(given.key) if given.key in self.plan.jobs else None
            if made is not None and role in recorded and recorded[role] != products_digest(made):
                return f"{self.folder(key)}: outdated, its {given.step} has been made again and has changed"
        return self._changed(spec)

    def _changed(self, spec: Spec) -> str | None:
        """A sentence if official data have changed since: a data job reads them again, and its fetch restores them."""
        if spec.step == "fetch":
            found = (self._changed(user) for user in self._users(spec) if user.step == "data")
            return next((text for text in found if text), None)
        made = self._made(spec.key)
        return made and changed(spec, made, self.results)

    def _users(self, spec: Spec) -> list[Spec]:
        return [user for user in self.plan.jobs.values() if spec.key in {i.key for i in user.inputs.values()}]

    def looks(self, spec: Spec) -> bool:
        """Whether an unfinished job needs one that fetches to look at the data folder, although its result is complete.

        Data may be missing here, if results came from elsewhere. And what is about to be indexed must be right.
        """
        if spec.step != "fetch":
            return False
        return not is_present(spec) or not all(
            self.done(user) for user in self._users(spec) if user.step in ("data", "backbone")
        )

    def problem(self, spec: Spec) -> str | None:
        """A sentence that says why a job's result is missing, damaged or outdated; None if it is complete."""
        return self._problem(spec.key)

    def fetches(self, spec: Spec) -> bool:
        """Whether a run of everything would run a job that fetches."""
        if spec.step != "fetch":
            return False
        unfinished = any(not self.done(user) for user in self._users(spec) if user.key in self.plan.stages)
        return not self.done(spec) or (unfinished and self.looks(spec))

    def done(self, spec: Spec) -> bool:
        return spec.key in self.plan.jobs and self.problem(spec) is None

    def state(self, spec: Spec) -> str:
        """done, again (damaged or outdated), started (continues from its saved state) or to do."""
        if self.problem(spec) is None:
            return "done"
        if (self.folder(spec.key) / MANIFEST).exists():
            return "again"
        return "started" if (self.results / "state" / spec.key).is_dir() else "to do"

    def manifest(self, given: Input) -> str:
        """Path of a job's manifest, existing or not; the job may belong to another plan.

        Snakemake is only told of manifests: a result without one of its products gets a newer file from `again`.
        """
        known = given.key in self.plan.jobs
        return str((self.folder(given.key) if known else self.results / given.folder) / MANIFEST)

    def remade(self, given: Input) -> bool:
        """Whether an input exists, but will be made again."""
        return given.key in self.plan.jobs and bool(self.again(self.plan.jobs[given.key]))

    def again(self, spec: Spec) -> list[str]:
        """For a damaged or outdated result: a file newer than it, which makes Snakemake run the job again."""
        return self._again(spec.key) if spec.key in self.plan.jobs else []

    def _find_again(self, key: str) -> list[str]:
        spec = self.plan.jobs[key]
        state = self.state(spec)
        if state != "again" and not (state == "done" and self.looks(spec)):
            return []
        path = self.results / "specs" / "again" / f"{spec.key}.json"
        newest = max(file.lstat().st_mtime for file in self.folder(spec.key).iterdir())
        if not path.is_file() or path.stat().st_mtime <= newest:
            # the time makes the content differ, because Snakemake also compares the content of small files
            why = self.problem(spec) or f"{spec.data_root}: to be compared with the archives"
            write_json(path, {"again": why, "after": newest})
            os.utime(path, (newest + 1, newest + 1))
        return [str(path)]

    def redate(self) -> None:
        """Give what a wrong clock has dated ahead the present time.

        Snakemake fails a job whose inputs are younger than what it has just made; nothing else depends on these times.
        """
        manifests = [self.folder(key) / MANIFEST for key in self.plan.jobs]
        for path in (*manifests, *(self.results / "specs" / "again").glob("*.json")):
            if path.is_file() and path.stat().st_mtime > time.time():
                os.utime(path)


# --- views ---------------------------------------------------------------------------------------------------


def fill(experiment: str, results: Path = RESULTS) -> None:
    """Add the results that only the view of an experiment has to the store."""
    for folder in _results_below(results / experiment):
        values = manifest(folder)
        if values is None:
            continue
        spec = values["spec"]
        own = results / Input(spec["step"], spec["key"]).folder
        if manifest(own) is None and problem(folder, spec["key"]) is None:
            link(folder, own, values)


def check(plan: Plan, jobs: list[Spec], results: Path = RESULTS) -> list[str]:
    """Compare the hashes of results with their manifests, and return a sentence for each damaged result.

    Planning compares only sizes, so the manifest of a result with right sizes and wrong content is removed: the result
    is then copied from its other place, or made again.
    """
    found = []
    for spec in jobs:
        for folder in (results / name for name in (spec.folder, *plan.views(spec.key))):
            if problem(folder, spec.key) is None and (wrong := problem(folder, spec.key, content=True)):
                (folder / MANIFEST).unlink()
                found.append(wrong)
    return found


def shown(plan: Plan, results: Path = RESULTS) -> bool:
    """Whether the view of an experiment shows the finished results of its plan, and nothing else."""
    return not _differences(plan, results)


def show(plan: Plan, results: Path = RESULTS) -> None:
    """Update the view of an experiment: link the finished results of its plan, and remove everything else.

    Results that are removed remain in the store; files that no job made are kept.
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
    """Folders of the view that must change -> key of the result that belongs there (None: no result)."""
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
    """Folders in the view of an experiment that have a manifest."""
    return [
        path.parent for depth in ("*", "*/*", "*/*/*") for path in sorted(home.glob(f"{depth}/{MANIFEST}"))
    ]


def link(source: Path, target: Path, values: dict[str, Any]) -> None:
    """Hard-link a result into another folder, or copy it where links are not possible; a user's own files are kept."""
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
            if not (temporary / path.name).exists():
                path.replace(temporary / path.name)
        shutil.rmtree(target)
    temporary.replace(target)


def _clear(folder: Path) -> None:
    """Remove the files of a job from a folder, starting with the manifest."""
    named = {Path(name).parts[0] for name in (manifest(folder) or {}).get("products", ())}
    for path in sorted(folder.iterdir(), key=lambda path: path.name != MANIFEST):
        if path.name in OURS | named:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _link_file(source: str | Path, target: str | Path) -> None:
    """Hard-link a file; for a symbolic link, the file that it points to."""
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)
        os.chmod(target, stat.S_IMODE(os.stat(real).st_mode) | stat.S_IWUSR)
