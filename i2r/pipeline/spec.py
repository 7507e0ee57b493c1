"""The spec of a job: all that it is made with, and the key that names its result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from i2r.files import canonical, read_json, write_json
from i2r.pipeline.steps import STEPS

KEY_LENGTH = 12


class JobError(RuntimeError):
    """A job that cannot run or did not make what it should; the message says what to do."""


@dataclass(frozen=True)
class Input:
    """The job that an input comes from."""

    step: str
    key: str

    @property
    def folder(self) -> str:
        """Below results/."""
        return f"store/{self.step}/{self.key}"


@dataclass(frozen=True)
class Spec:
    """A job of the plan; made by `make_spec`, which computes its key.

    Attributes:
        args: fold, shot, seed, eval_seed: those that the step has.
        params: the sections that it reads; files of weights are named by their content.
        inputs: role -> the job it comes from.
        label: a readable name; no part of the key, like all that follows.
        runtime: section runtime of the params.
        data_root: folder of the data set.
        files: "section.name" -> path of a file of weights.
    """

    step: str
    version: int
    args: dict[str, Any]
    params: dict[str, Any]
    inputs: dict[str, Input]
    key: str
    label: str
    products: tuple[str, ...]
    runtime: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    data_root: str | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Of its result, below results/."""
        return Input(self.step, self.key).folder

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.step} {self.label}"

    def path(self, results: Path) -> Path:
        """Of its spec file."""
        return spec_path(self.step, self.key, results)

    def values(self) -> dict[str, Any]:
        """As its file holds it."""
        return asdict(self) | {"products": list(self.products)}


def spec_path(step: str, key: str, results: Path) -> Path:
    return results / "specs" / step / f"{key}.json"


def key_of(step: str, version: int, args: Mapping, params: Mapping, inputs: Mapping[str, Input]) -> str:
    """Hash of all that decides a job's numbers, the keys of its inputs included."""
    decides = {"step": step, "version": version, "args": args, "params": params}
    decides["inputs"] = {role: given.key for role, given in inputs.items()}
    return hashlib.sha256(canonical(decides).encode()).hexdigest()[:KEY_LENGTH]


def make_spec(
    step: str, args: dict[str, Any], params: dict[str, Any], inputs: dict[str, Input], label: str, **more: Any
) -> Spec:
    """A spec with its key. `more`: the fields that are no part of it."""
    kind = STEPS[step]
    key = key_of(step, kind.version, args, params, inputs)
    products = more.pop("products", kind.products)
    return Spec(step, kind.version, args, params, inputs, key, label, tuple(products), **more)


def write_spec(spec: Spec, results: Path) -> None:
    """Write the spec's file where it is not there as it should be."""
    path, values = spec.path(results), spec.values()
    if not path.is_file() or _read(path) != values:
        write_json(path, values)


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (ValueError, OSError):
        return None


def read_spec(path: Path, step: str | None = None) -> Spec:
    """A spec whose key fits its content and the present code.

    Raises:
        JobError: the file is missing, unreadable, changed by hand, or made for another version of the code.
    """
    if not path.is_file():
        raise JobError(f"{path}: no such spec; `i2r plan` writes the specs of all jobs")
    values = _read(path)
    try:
        inputs = {role: Input(**given) for role, given in values["inputs"].items()}
        spec = Spec(**{**values, "inputs": inputs, "products": tuple(values["products"])})
    except (TypeError, KeyError, AttributeError):
        raise JobError(f"{path}: no readable spec; `i2r plan` writes it anew") from None
    if step is not None and spec.step != step:
        raise JobError(f"{path}: is the spec of a job of step {spec.step}, not {step}")
    if spec.step not in STEPS or spec.version != STEPS[spec.step].version:
        raise JobError(
            f"{path}: made for version {spec.version} of step {spec.step}, which the code is not; "
            "run `snakemake` or `i2r plan` again"
        )
    if key_of(spec.step, spec.version, spec.args, spec.params, spec.inputs) != spec.key:
        raise JobError(f"{path}: the key {spec.key} does not fit the content; `i2r plan` writes it anew")
    return spec
