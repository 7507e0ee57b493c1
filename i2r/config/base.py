"""What all sections of params share: strict models, common types, and sentences for what is wrong in them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

WORD = "reading"  # as a value: what the reading says (config/readings.py)


class ParamsError(ValueError):
    """A params file that cannot be used; the message names the key and what would be right."""


class Section(BaseModel):
    """Unknown keys are errors, and nothing changes after the check."""

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
            raise ValueError(f"{value!r} stands twice")
    return values


Once = AfterValidator(_once)  # of a list: no value stands in it twice


def said(description: str, **limits: Any) -> Any:
    """A field whose default is what the reading says."""
    return Field(default=WORD, description=description, **limits)


def describe(error: ValidationError) -> str:
    """One sentence a problem: the key, what is wrong, and the value that was given."""
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
