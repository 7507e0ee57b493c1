"""The spec of a job: everything that determines its result, and the key made from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from i2r.errors import InputError
from i2r.files import canonical, read_json, write_json
from i2r.pipeline.steps import STEPS

RESULTS = Path("results")
KEY_LENGTH = 12


class JobError(InputError):
    """A job that cannot run or did not write its products; the message says what to do."""


@dataclass(frozen=True)
class Input:
    """The job that makes an input."""

    step: str
    key: str

    @property
    def folder(self) -> str:
        """Folder of its result, relative to results/."""
        return f"store/{self.step}/{self.key}"


@dataclass(frozen=True)
class Spec:
    """A job of the plan, made by `make_spec`, which computes its key.

    Attributes:
        args: those of fold, shot, seed and eval_seed that the step has.
        params: the sections that the step reads; weights files are given by their digests.
        inputs: role -> the job that makes the input.
        label: a readable name. This and the following fields are not part of the key.
        runtime: section runtime of the params.
        data_root: folder of the data set; for a job that fetches weights, their file.
        files: "section.name" -> path of a weights file.
        options: of a report, those of the `snakemake` that planned it.
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
    options: list[str] = field(default_factory=list)

    @property
    def folder(self) -> str:
        """Folder of its result, relative to results/."""
        return Input(self.step, self.key).folder

    @property
    def title(self) -> str:
        """Step and label, for messages."""
        return f"{self.step} {self.label}"

    def path(self, results: Path) -> Path:
        """Path of its spec file."""
        return spec_path(self.step, self.key, results)

    def values(self) -> dict[str, Any]:
        """The content of its spec file."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        inputs = {role: {"step": given.step, "key": given.key} for role, given in self.inputs.items()}
        return values | {"inputs": inputs, "products": list(self.products)}


def from_values(values: Mapping[str, Any]) -> Spec:
    """The spec with this content; TypeError, KeyError or AttributeError if it is that of no spec."""
    inputs = {role: Input(**given) for role, given in values["inputs"].items()}
    return Spec(**{**values, "inputs": inputs, "products": tuple(values["products"])})


def spec_path(step: str, key: str, results: Path) -> Path:
    return results / "specs" / step / f"{key}.json"


def key_of(step: str, version: int, args: Mapping, params: Mapping, inputs: Mapping[str, Input]) -> str:
    """Hash of everything that determines a job's numbers, including the keys of its inputs."""
    decides = {"step": step, "version": version, "args": args, "params": params}
    decides["inputs"] = {role: given.key for role, given in inputs.items()}
    return hashlib.sha256(canonical(decides).encode()).hexdigest()[:KEY_LENGTH]


def make_spec(
    step: str, args: dict[str, Any], params: dict[str, Any], inputs: dict[str, Input], label: str, **more: Any
) -> Spec:
    """A spec with its key. `more`: fields that are not part of the key."""
    kind = STEPS[step]
    key = key_of(step, kind.version, args, params, inputs)
    products = more.pop("products", kind.products)
    return Spec(step, kind.version, args, params, inputs, key, label, tuple(products), **more)


def write_spec(spec: Spec, results: Path) -> None:
    """Write the spec's file, unless it has this content already. It is planned again if it is lost, so not flushed."""
    path, values = spec.path(results), spec.values()
    if not path.is_file() or _read(path) != values:
        write_json(path, values, durable=False)


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (ValueError, OSError):
        return None


def read_spec(path: Path, step: str | None = None) -> Spec:
    """Read a spec and check it against its key and the present code.

    Raises:
        JobError: the file is missing, unreadable, edited by hand, or made for another version of the code.
    """
    if not path.is_file():
        raise JobError(f"{path}: no such spec; `i2r plan` writes the specs of all jobs")
    values = _read(path)
    try:
        spec = from_values(values)
    except (TypeError, KeyError, AttributeError):
        raise JobError(f"{path}: not a readable spec; `i2r plan` writes it again") from None
    if step is not None and spec.step != step:
        raise JobError(f"{path}: spec of a job of step {spec.step}, not {step}")
    if spec.step not in STEPS or spec.version != STEPS[spec.step].version:
        raise JobError(
            f"{path}: made for version {spec.version} of step {spec.step}, but the code has another version; "
            "run `snakemake` or `i2r plan` again"
        )
    if key_of(spec.step, spec.version, spec.args, spec.params, spec.inputs) != spec.key:
        raise JobError(f"{path}: the key {spec.key} does not match the content; `i2r plan` writes it again")
    return spec
