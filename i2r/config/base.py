"""Shared by all sections of params: strict models, common types, and error messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
)

from i2r.errors import InputError

WORD = "reading"  # a value of params that stands for the value of the chosen reading (config/readings.py)


class ParamsError(InputError):
    """A params file that cannot be used; the message names the key and the allowed values."""


class Section(BaseModel):
    """A section of params: unknown keys are errors, and values are frozen after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Number = BeforeValidator(_no_truth)  # pydantic takes true for 1
Positive = Annotated[int, Field(gt=0), Number]
Count = Annotated[int, Field(ge=0), Number]
Rate = Annotated[float, Field(gt=0), Number]
Share = Annotated[float, Field(ge=0, le=1), Number]
NotNegative = Annotated[float, Field(ge=0), Number]


def _once(values: list) -> list:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} is given twice")
    return values


Once = AfterValidator(_once)  # for a list without duplicates


def _one_line(value: str) -> str:
    if "\n" in value:
        raise ValueError("must be one line")
    return value


OneLine = Annotated[str, AfterValidator(_one_line), Field(json_schema_extra={"pattern": "^.*$"})]


def must_be(what: str) -> WrapValidator:
    """For a value of one type or another, or of several parts: one sentence, where pydantic has one for each."""

    def check(value: Any, inner: Callable[[Any], Any]) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise ValueError(f"must be {what}") from None

    return WrapValidator(check)


def said(description: str, **limits: Any) -> Any:
    """A field whose default is the value of the chosen reading."""
    return Field(default=WORD, description=description, **limits)


# What pydantic's types of errors mean; "value_error" is one of our own validators.
WORDS = {
    **dict.fromkeys(("string_type", "string_unicode"), "must be text"),
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "must be a whole number"
    ),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    "finite_number": "must be a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "list_type": "must be a list",
    **dict.fromkeys(("dict_type", "model_type"), "must be a mapping of keys to values"),
    "literal_error": "must be {expected}",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_short": "must not be empty",
    "value_error": "{error}",
}


def describe(error: ValidationError) -> str:
    """One sentence for each problem: the key, what is wrong, and the value that was given."""
    lines = []
    for item in error.errors():
        # without places in lists: they count from 0, and the value says which is meant
        key = ".".join(part for part in item["loc"] if isinstance(part, str))
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key")
        elif item["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            message = WORDS.get(item["type"], item["msg"]).format(**item.get("ctx", {}))
            told = "got" in message or (item["type"] == "value_error" and isinstance(item["input"], dict))
            given = "" if told else f" (got {item['input']!r})"
            lines.append(f"{key}: {message}{given}" if key else message + given)
    return "; ".join(lines)
