"""Shared by all sections of params: strict models, common types, and error messages."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

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


def said(description: str, **limits: Any) -> Any:
    """A field whose default is the value of the chosen reading."""
    return Field(default=WORD, description=description, **limits)


def describe(error: ValidationError) -> str:
    """One sentence for each problem: the key, what is wrong, and the value that was given."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key")
        elif item["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
            start = f"{key}: " if key else ""
            lines.append(f"{start}{message}{given if 'got' not in message else ''}")
    return "; ".join(lines)
