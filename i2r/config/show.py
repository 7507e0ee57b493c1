"""Params for readers: a table of every value and its origin, docs/params.md, and a JSON schema."""

from __future__ import annotations

import json
import sys
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Table

from i2r.config.base import WORD, ParamsError
from i2r.config.experiment import Experiment, MethodParams, Target
from i2r.config.load import PAPER, Params
from i2r.config.methods import SECTIONS, leaves
from i2r.config.networks import NETWORKS
from i2r.config.readings import BRACKETS, OPTIONS, READINGS, says
from i2r.config.schema import RunParams

WIDTH = 150  # columns of a table that is not printed to a terminal


def print_params(params: Params, method: str | None = None, as_json: bool = False) -> None:
    """Print every value and its origin; as JSON only the resolved sections.

    Args:
        method: print the sections of this method; None: those of the experiment.

    Raises:
        ParamsError: there is no such method.
    """
    if method is not None and method not in params.methods:
        raise ParamsError(f"--method: {method!r} is not among methods ({', '.join(params.methods)})")
    if method is None:
        values, origin = params.values.model_dump(mode="json"), params.origin
        sections = {name: values[name] for name in SECTIONS}
        reading = params.values.reading
    else:
        chosen = params.methods[method]
        values = sections = chosen.params.model_dump(mode="json")
        origin, reading = chosen.origin, chosen.reading
    if as_json:
        print(json.dumps(sections, indent=1, ensure_ascii=False))
        return
    table = Table("value", "", "where it comes from", box=box.SIMPLE)
    beside = _of_the_paper(origin)
    for key in leaves(values):
        if key.startswith(beside):
            continue
        value: Any = values
        for part in key.split("."):
            value = value[part]
        table.add_row(key, json.dumps(value, ensure_ascii=False), origin.get(key, "default"))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    print(f"reading: {reading}" + (f"; method {method}" if method else ""))
    if method is None and params.paper:
        print(f"the paper's tables and figures, from {PAPER}: {', '.join(params.paper)}")


def _of_the_paper(origin: dict[str, str]) -> tuple[str, ...]:
    """Beginnings of the keys of the paper's methods and targets, which are not values of the experiment."""
    found = {".".join(key.split(".")[:2]) for key, where in origin.items() if where == PAPER}
    return tuple(f"{name}." for name in found)


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is None:
        names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
        return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
    if str(origin) == "typing.Literal":
        return ", ".join(str(part) for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in parts)
    if origin is list:
        return f"list of {_kind(parts[0])}s"
    if origin is tuple:
        return f"{len(parts)} {_kind(parts[0])}s"
    if origin is dict:
        return "mapping"
    return _kind(parts[0])  # Annotated


def _rows(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str, str]]:
    rows = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += _rows(kind, f"{prefix}{name}.")
            continue
        default = field.default_factory() if field.default_factory else field.default
        text = (
            ""
            if field.is_required()
            else WORD
            if default == WORD
            else json.dumps(default, default=lambda _: {})
        )
        rows.append((f"{prefix}{name}", _kind(kind), text, field.description or ""))
    return rows


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    head = "| key | values | default | meaning |\n| --- | --- | --- | --- |\n"
    lines = (
        f"| `{key}` | {kind} | {f'`{default}`' if default else ''} | {text} |"
        for key, kind, default, text in rows
    )
    return head + "\n".join(lines) + "\n"


def params_page() -> str:
    """docs/params.md."""
    parts = [
        "# Params\n\nMade from the schema (`i2r/config`) by `i2r dev write-docs`. A params file holds the values that "
        "differ from these defaults; `i2r params` prints every value and where it comes from. A value `reading` stands "
        "for that of the paper, its released code or BAM's code, as `reading: paper | released | bam` of the "
        "experiment or of a method chooses; `i2r readings` prints all of them. A file that begins with `extends: "
        "OTHER.yaml` overrides values of that file; every other file is complete in itself.\n",
        "## The experiment\n\n"
        + _table([row for row in _rows(Experiment) if row[0].split(".")[0] not in SECTIONS]),
        "## Sections\n\nThe values that a method runs with.\n",
    ]
    for name, field in RunParams.model_fields.items():
        if name == "network":
            continue
        doc = (field.annotation.__doc__ or "").strip().splitlines()[0]
        parts.append(f"### {name}\n\n{doc}\n\n" + _table(_rows(field.annotation, f"{name}.")))
    for name, options in NETWORKS.items():
        doc = (options.__doc__ or "").strip().splitlines()[0]
        parts.append(f"### network, name: {name}\n\n{doc}\n\n" + _table(_rows(options, "network.")))
    parts += [
        "## A method\n\n`methods` maps a name to the values that differ from the sections. "
        + (MethodParams.__doc__ or "")
        + "\n\n"
        + _table(_rows(MethodParams)),
        "## A target\n\n" + (Target.__doc__ or "") + "\n\n" + _table(_rows(Target)),
        "## Readings\n\n| key | paper | released | BAM | where |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(_reading_row(option) for option in OPTIONS)
        + f"\n\n{BRACKETS}\n",
    ]
    return "\n".join(parts)


def _reading_row(option: Any) -> str:
    cells = []
    for reading in READINGS:
        text = json.dumps(says(reading)[option.key])
        cells.append(text if getattr(option, reading) is not None else f"({text})")
    return f"| `{option.key}` | {' | '.join(cells)} | {option.where} |"


def json_schema() -> dict[str, Any]:
    """A JSON schema of a params file, for editors; `network` accepts the options of every network."""
    schema = Experiment.model_json_schema()
    networks = {name: options.model_json_schema() for name, options in NETWORKS.items()}
    properties: dict[str, Any] = {}
    for own in networks.values():
        properties |= own["properties"]
    properties["name"] = {"enum": list(NETWORKS), "description": "the network"}
    schema["properties"]["network"] = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "the params file whose values this one overrides",
    }
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("required", None)  # a file may leave out what the file that it extends has
    return schema
