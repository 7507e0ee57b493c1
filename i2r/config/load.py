"""From params files to validated params: defaults, files that extend one another, the command line, methods, readings.

Later layers override earlier ones, and the origin of each value is recorded: the defaults of the schema, a file, the
command line, a method or a reading.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import yaml
from pydantic import ValidationError

from i2r.config.base import ParamsError, describe
from i2r.config.data_set import SOURCES
from i2r.config.experiment import Experiment, Target
from i2r.config.methods import (
    DEFAULT,
    SECTIONS,
    Method,
    Origin,
    Values,
    leaves,
    method_of,
    other_network,
    overlay,
    refused,
    sections_with,
    spelled_out,
    with_networks,
)
from i2r.config.paper_targets import paper_methods, paper_targets, with_paper
from i2r.config.readings import settle

PARAMS = Path("params.yaml")
PRESETS = Path("workflow/presets")
EXTENDS = "extends"  # key of a params file: the file that it overrides, in its own folder or in PRESETS
COMMAND_LINE, PAPER = "command line", "i2r/paper"  # origins of values, as DEFAULT


@dataclass(frozen=True)
class Params:
    """A validated experiment.

    Attributes:
        paper: the paper's tables and figures among the targets.
        impossible: target that the paper's files added -> method that cannot run in this experiment -> why.
        options: of `snakemake`, with which it reads these params.
    """

    values: Experiment
    methods: dict[str, Method]
    origin: Origin
    paper: list[str]
    impossible: dict[str, dict[str, str]]
    options: tuple[str, ...] = ()

    @cached_property
    def own(self) -> list[str]:
        """Targets that the experiment declares, or makes."""
        return [name for name in self.values.targets if name not in self.impossible or name in self.made]

    @cached_property
    def made(self) -> list[str]:
        """Targets that are made when none is requested."""
        return list(self.values.make or self.values.targets)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a duplicate key in a mapping."""


def _mapping(loader: yaml.Loader, node: yaml.MappingNode) -> Values:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path: str | Path) -> Values:
    """The values of one params file, not validated.

    Raises:
        ParamsError: the file is missing, or is not UTF-8 text or not a YAML mapping.
    """
    path = Path(path)
    if not path.is_file():
        remedy = "; `i2r preset NAME` writes one" if path == PARAMS else ""
        raise ParamsError(f"{path}: no such params file{remedy}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except UnicodeDecodeError:
        raise ParamsError(f"{path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {_fault(error)}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected a mapping of sections")
    return values


def _fault(error: yaml.YAMLError) -> str:
    """What is wrong and in which line, without the parser's own words for where it was."""
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: {error.problem}" if mark else " ".join(str(error).split())


def read_layers(*paths: str | Path) -> list[tuple[str, Values]]:
    """Params files, each after the files that it extends: (name of the file, values), base first.

    A file that several of them extend counts once, where it is met first.

    Raises:
        ParamsError: as `read`, or files that extend one another in a circle.
    """
    layers: dict[Path, tuple[str, Values]] = {}
    for path in paths:
        *below, (own, values) = _chain(Path(path))
        for place, extended_values in below:
            layers.setdefault(place.resolve(), (place.name, extended_values))
        layers.pop(own.resolve(), None)  # given after a file that extends it
        layers[own.resolve()] = own.name, values
    return list(layers.values())


def extended(path: str | Path) -> list[Path]:
    """The files that a params file extends; errors as for `read_layers`."""
    return [place for place, _ in _chain(Path(path))][:-1]


def _chain(place: Path) -> list[tuple[Path, Values]]:
    chain: list[tuple[Path, Values]] = []
    seen: list[Path] = []
    while True:
        if place.resolve() in seen:
            raise ParamsError(f"{place}: extends itself through {', '.join(map(str, seen))}")
        seen.append(place.resolve())
        values = read(place)
        below = values.pop(EXTENDS, None)
        chain.insert(0, (place, values))
        if below is None:
            return chain
        if not isinstance(below, str):
            raise ParamsError(f"{place}: {EXTENDS} must be the name of a file, got {below!r}")
        place = next(
            (p for p in (place.parent / below, PRESETS / below) if p.is_file()), place.parent / below
        )


def resolve(layers: Sequence[tuple[str, Values]], where: str = "params", paper: bool = False) -> Params:
    """Validated params from layers of values, base first.

    Args:
        layers: (origin, values of any sections); they override the defaults of the schema, in this order.
        where: prefix of error messages.
        paper: add the paper's tables and figures as targets.

    Raises:
        ParamsError: with each key that is unknown, missing or wrong.
    """
    try:
        return _resolve(layers, paper)
    except ValidationError as error:
        raise ParamsError(f"{where}: {describe(error)}") from None
    except ValueError as error:
        raise ParamsError(f"{where}: {error}") from None


def load(paths: str | Path | Sequence[str | Path] = (), command_line: Values | None = None) -> Params:
    """Read and validate params files; each overrides those before it, and values of the command line all of them. The
    paper's targets are added.

    Args:
        paths: of the files; none: params.yaml.

    Raises:
        ParamsError: with the files and what is wrong in them.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths or [PARAMS]
    layers = read_layers(*paths)
    if command_line:
        layers.append((COMMAND_LINE, command_line))
    params = resolve(layers, ", ".join(map(str, paths)), paper=True)
    return replace(params, options=_options(paths, command_line or {}))


def _options(paths: Sequence[str | Path], command_line: Values) -> tuple[str, ...]:
    """The options of `snakemake` for these params files, named from the present folder if they are below it."""
    here = Path.cwd()
    files = [path.relative_to(here) if path.is_relative_to(here) else path for path in map(Path, paths)]
    config = [f"{name}={json.dumps(value)}" for name, value in command_line.items()]
    named = [] if files == [PARAMS] else ["--configfile", *map(str, files)]
    return (*named, *(["--config", *config] if config else []))


def _resolve(layers: Sequence[tuple[str, Values]], paper: bool) -> Params:
    layers = [(source, spelled_out(values)) for source, values in layers]
    given: Values = {}
    origin: Origin = {}
    for source, values in layers:
        _expect_text_keys(values)
        _expect_mappings(values)
        if other_network(given, values):
            given = {name: value for name, value in given.items() if name != "network"}
        given = overlay(given, values)
        origin |= dict.fromkeys(leaves(values), source)
    sections = overlay(sections_with(given.get("network", {})), {n: given[n] for n in SECTIONS if n in given})
    reading = given.get("reading", "paper")
    origin = dict.fromkeys(leaves(sections), DEFAULT) | origin
    given = _own_targets(given)
    impossible: dict[str, dict[str, str]] = {}
    if paper and given.get("targets"):
        known = given.get("methods", {}) | paper_methods()
        why_not = partial(refused, known=known, sections=sections, reading=reading, origin=origin)
        given, added, impossible = with_paper(given, settle(sections, reading), why_not)
        origin = dict.fromkeys(leaves(added), PAPER) | origin
    complete = {**{n: v for n, v in given.items() if n not in SECTIONS}, **settle(sections, reading)}
    values = Experiment(**complete)
    methods = {
        name: method_of(name, with_networks(name, own, values.methods), sections, reading, origin)
        for name, own in values.methods.items()
    }
    targets = {
        name: target.model_copy(update={"folds": _folds(name, target, methods)})
        for name, target in values.targets.items()
    }
    tables = [name for name in paper_targets() if name in targets] if paper else []
    return Params(values.model_copy(update={"targets": targets}), methods, origin, tables, impossible)


def _own_targets(given: Values) -> Values:
    """Without the targets that are null: those of an extended file that this experiment does not keep."""
    targets = given.get("targets")
    if not isinstance(targets, dict):
        return given
    return given | {"targets": {name: target for name, target in targets.items() if target is not None}}


def _folds(name: str, target: Target, methods: dict[str, Method]) -> list[int]:
    """The folds of a target: those that it gives, or all of its methods' data.

    Raises:
        ParamsError: the data of a method lack a fold, or none are given and the methods' data differ in their number.
    """
    used = dict.fromkeys([*target.methods, *([target.baselines] if target.baselines else [])])
    sources = dict.fromkeys(methods[method].params.data.source for method in used)
    counts = {source: SOURCES[source].folds for source in sources}
    if target.folds is None:
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{source} {count}" for source, count in counts.items())
            raise ParamsError(
                f"targets.{name}.folds: missing, and the data of its methods differ in folds ({said})"
            )
        return list(range(next(iter(counts.values()))))
    for source, count in counts.items():
        if max(target.folds) >= count:
            known = "only fold 0" if count == 1 else f"folds 0 to {count - 1}"
            raise ParamsError(
                f"targets.{name}.folds: data.source {source} has {known}, got {max(target.folds)}"
            )
    return target.folds


def _expect_text_keys(values: Values, where: str = "") -> None:
    for name, value in values.items():
        if not isinstance(name, str):
            raise ParamsError(f"{where}{name!r}: keys must be text; put it in quotes")
        if isinstance(value, dict):
            _expect_text_keys(value, f"{where}{name}.")


def _expect_mappings(values: Values) -> None:
    for name in SECTIONS:
        if not isinstance(values.get(name, {}), dict):
            raise ParamsError(f"{name}: expected a mapping of values, got {values[name]!r}")
