"""From params files to validated params: defaults, files that extend one another, the command line, methods, readings.

Later layers override earlier ones, and the origin of each value is recorded: the defaults of the schema, a file, the
command line, a method or a reading.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from i2r.config.base import WORD, ParamsError, describe
from i2r.config.data_set import SOURCES
from i2r.config.experiment import NETWORK_DEFAULT, Experiment, MethodParams, Target
from i2r.config.networks import options_of
from i2r.config.paper_targets import paper_targets, with_paper
from i2r.config.readings import settle
from i2r.config.schema import RunParams

PARAMS = Path("params.yaml")
PRESETS = Path("workflow/presets")
EXTENDS = "extends"  # key of a params file: the file that it overrides, in its own folder or in PRESETS
DEFAULT, COMMAND_LINE, PAPER = "default", "command line", "i2r/paper"
SECTIONS = tuple(RunParams.model_fields)

Values = dict[str, Any]
Origin = dict[str, str]  # "train.lr": where its value came from


@dataclass(frozen=True)
class Method:
    """A method of an experiment, with its resolved sections.

    Attributes:
        origin: dotted key -> where the value came from.
    """

    name: str
    label: str
    reading: str
    params: RunParams
    origin: Origin


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


def defaults(model: type[BaseModel]) -> Values:
    """The defaults of a section as plain values, `reading` unresolved; fields without a default are left out."""
    found: Values = {}
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=False)
        nested = field.annotation if isinstance(field.annotation, type) else None
        if nested and issubclass(nested, BaseModel) and value is not None:
            found[name] = defaults(nested)
        elif field.default_factory is not None:
            found[name] = field.default_factory()
        elif value is not PydanticUndefined:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


@cache
def _section_defaults(network: str) -> Values:
    found = {
        name: defaults(field.annotation)
        for name, field in RunParams.model_fields.items()
        if name != "network"
    }
    return found | {"network": defaults(options_of(network))}


def sections_of(reading: str, network: str, source: str) -> Values:
    """The sections as a reading has them: the defaults, with every `reading` settled for this data source."""
    return settle(overlay(_section_defaults(network), {"data": {"source": source}}), reading)


def overlay(below: Values, above: Values) -> Values:
    """`below` overridden by `above`: mappings merge, everything else is replaced."""
    both = {
        name: overlay(below[name], value)
        if isinstance(below.get(name), dict) and isinstance(value, dict)
        else value
        for name, value in above.items()
    }
    return below | both


def leaves(values: Values, prefix: str = "") -> list[str]:
    """Dotted keys of all values that are not mappings."""
    found = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        found += leaves(value, f"{key}.") if isinstance(value, dict) and value else [key]
    return found


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


def _spelled_out(sections: Values) -> Values:
    """`network: bam` is short for `network: {name: bam}`."""
    network = sections.get("network")
    return sections | {"network": {"name": network}} if isinstance(network, str) else sections


def _resolve(layers: Sequence[tuple[str, Values]], paper: bool) -> Params:
    layers = [(source, _spelled_out(values)) for source, values in layers]
    given: Values = {}
    origin: Origin = {}
    for source, values in layers:
        _expect_text_keys(values)
        _expect_mappings(values)
        if _other_network(given, values):
            given = {name: value for name, value in given.items() if name != "network"}
        given = overlay(given, values)
        origin |= dict.fromkeys(leaves(values), source)
    sections = overlay(_sections(given.get("network", {})), {n: given[n] for n in SECTIONS if n in given})
    reading = given.get("reading", "paper")
    origin = dict.fromkeys(leaves(sections), DEFAULT) | origin
    given = _own_targets(given)
    impossible: dict[str, dict[str, str]] = {}
    if paper and given.get("targets"):
        refused = partial(_refused, sections=sections, reading=reading, origin=origin)
        given, added, impossible = with_paper(given, settle(sections, reading), refused)
        origin = dict.fromkeys(leaves(added), PAPER) | origin
    complete = {**{n: v for n, v in given.items() if n not in SECTIONS}, **settle(sections, reading)}
    values = Experiment(**complete)
    methods = {name: _method(name, own, sections, reading, origin) for name, own in values.methods.items()}
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


def _sections(network: Values) -> Values:
    name = network.get("name", NETWORK_DEFAULT.model_fields["name"].default)
    return _section_defaults(options_of(name).model_fields["name"].default)


def _other_network(below: Values, above: Values) -> bool:
    """Whether `above` names another network, whose options then start from its own defaults."""
    default = NETWORK_DEFAULT.model_fields["name"].default
    name = above.get("network", {}).get("name")
    return name is not None and name != below.get("network", {}).get("name", default)


def _method(name: str, own: MethodParams, sections: Values, reading: str, origin: Origin) -> Method:
    """The experiment's sections overridden by the method's values, with every `reading` resolved by its reading."""
    above = _spelled_out({s: v for s, v in own.model_dump(exclude_unset=True).items() if s in SECTIONS})
    own_origin = {key: origin[key] for key in leaves(sections)}
    reading = own.reading or reading
    try:
        if _other_network(sections, above):
            fresh = _sections(above["network"])["network"]
            sections = sections | {"network": fresh}
            own_origin = {k: v for k, v in own_origin.items() if not k.startswith("network.")}
            own_origin |= dict.fromkeys((f"network.{key}" for key in leaves(fresh)), DEFAULT)
        merged = overlay(sections, above)
        params = RunParams(**settle(merged, reading))
    except ValidationError as error:
        raise ParamsError(f"methods.{name}: {describe(error)}") from None
    except ValueError as error:
        raise ParamsError(f"methods.{name}: {error}") from None
    own_origin |= dict.fromkeys(leaves(above), f"method {name}")
    own_origin |= {
        key: f"reading {reading}, by {own_origin.get(key, DEFAULT)}"
        for key in leaves(merged)
        if _at(merged, key) == WORD
    }
    return Method(name, own.label or name, reading, params, own_origin)


def _refused(name: str, own: Values, sections: Values, reading: str, origin: Origin) -> str:
    """Why a method cannot run with these sections; empty if it can."""
    try:
        _method(name, MethodParams(**own), sections, reading, origin)
    except ParamsError as error:
        return str(error).removeprefix(f"methods.{name}: ")
    return ""


def _at(values: Values, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values
