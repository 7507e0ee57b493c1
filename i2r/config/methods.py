"""The sections that a method runs with: defaults, the experiment's values, its own, and its reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from i2r.config.base import WORD, ParamsError, describe
from i2r.config.experiment import NETWORK_DEFAULT, MethodParams
from i2r.config.networks import options_of
from i2r.config.readings import settle
from i2r.config.schema import RunParams

DEFAULT = "default"  # origin of a value that nothing overrides
SECTIONS = tuple(RunParams.model_fields)

Values = dict[str, Any]
Origin = dict[str, str]  # "train.lr": where its value came from


@dataclass(frozen=True)
class Method:
    """A method of an experiment, with its resolved sections.

    Attributes:
        origin: dotted key -> where the value came from.
        trained_as: the method whose networks it evaluates; None if it has its own.
    """

    name: str
    label: str
    reading: str
    params: RunParams
    origin: Origin
    trained_as: str | None = None


def method_of(name: str, own: MethodParams, sections: Values, reading: str, origin: Origin) -> Method:
    """The experiment's sections overridden by the method's values, with every `reading` resolved by its reading."""
    above = spelled_out({s: v for s, v in own.model_dump(exclude_unset=True).items() if s in SECTIONS})
    own_origin = {key: origin[key] for key in leaves(sections)}
    reading = own.reading or reading
    try:
        if other_network(sections, above):
            fresh = sections_with(above["network"])["network"]
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
    return Method(name, own.label or name, reading, params, own_origin, own.trained_as)


def with_networks(name: str, own: MethodParams, methods: Mapping[str, MethodParams]) -> MethodParams:
    """A method's own values; if it is `trained_as` another, those of the other below its data and evaluation.

    Raises:
        ParamsError: there is no such method, it has no networks of its own, or own values would change the networks.
    """
    if own.trained_as is None:
        return own
    where, trained = f"methods.{name}.trained_as", methods.get(own.trained_as)
    if trained is None:
        raise ParamsError(f"{where}: no method is called {own.trained_as}")
    if trained.trained_as is not None:
        raise ParamsError(f"{where}: {own.trained_as} has no networks of its own; name {trained.trained_as}")
    given = own.model_dump(exclude_unset=True)
    changed = [key for key in given if key not in ("label", "trained_as", "data", "evaluate")]
    if changed:
        raise ParamsError(
            f"methods.{name}.{changed[0]}: the method evaluates the networks of {own.trained_as}, and can differ in "
            "data and evaluate only"
        )
    return MethodParams(**overlay(trained.model_dump(exclude_unset=True, exclude={"label"}), given))


def refused(
    name: str, own: Values, known: Mapping[str, Values], sections: Values, reading: str, origin: Origin
) -> str:
    """Why a method cannot run with these sections; empty if it can.

    known: the values of all methods.
    """
    try:
        trained = {
            other: MethodParams(**known[other]) for other in (own.get("trained_as"),) if other in known
        }
        method_of(name, with_networks(name, MethodParams(**own), trained), sections, reading, origin)
    except ParamsError as error:
        return str(error).removeprefix(f"methods.{name}: ")
    return ""


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


def sections_with(network: Values) -> Values:
    name = network.get("name", NETWORK_DEFAULT.model_fields["name"].default)
    return _section_defaults(options_of(name).model_fields["name"].default)


def spelled_out(sections: Values) -> Values:
    """`network: bam` is short for `network: {name: bam}`."""
    network = sections.get("network")
    return sections | {"network": {"name": network}} if isinstance(network, str) else sections


def other_network(below: Values, above: Values) -> bool:
    """Whether `above` names another network, whose options then start from its own defaults."""
    default = NETWORK_DEFAULT.model_fields["name"].default
    name = above.get("network", {}).get("name")
    return name is not None and name != below.get("network", {}).get("name", default)


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


def _at(values: Values, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values
