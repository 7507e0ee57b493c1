"""Readings: bundles of options, each free on its own; the word stands for a value and is never part of a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from seeded import PUBLISHED

from i2r import cli
from i2r.config import schema as params
from i2r.config.readings import FALLBACK, OPTIONS, READINGS, WORD, says
from i2r.config.schema import ParamsError
from i2r.pipeline import plan

PRESETS = Path(__file__).parents[1] / "workflow/presets"


@pytest.fixture
def values() -> dict[str, Any]:
    return params.read(PRESETS / "tiny.yaml")


def keys(values: dict[str, Any]) -> list[str]:
    return [spec["key"] for spec in plan.make_plan(params.check(values)).jobs]


def put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        values = values[section]
    assert name in values, key
    values[name] = value


def get(values: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values


@pytest.mark.parametrize("reading", READINGS)
def test_every_option_of_a_reading_is_a_value_of_the_schema(values, reading):
    for option in OPTIONS:
        put(values, option.key, WORD)
    found = params.check(values | {"reading": reading}).model_dump(mode="json")
    for option in OPTIONS:
        said = getattr(option, reading)
        expected = getattr(option, FALLBACK[reading]) if said is None else said
        assert get(found, option.key) == says(reading)[option.key] == expected, option.key
        assert expected is not None and option.where


def test_readings_differ_where_their_sources_do():
    """The points in which the sources differ most."""
    paper, released, bam = (says(reading) for reading in READINGS)
    assert (paper["method.delta_compare"], released["method.delta_compare"]) == (">=", ">")
    assert (paper["method.mask"], released["method.mask"]) == ("dicm", "transposed")
    assert (paper["train.lr"], released["train.lr"], bam["train.lr"]) == (0.01, 0.05, 0.05)
    assert (released["evaluate.tta"], released["method.ignore"]) == ("released", "background")
    assert (bam["method.network"], bam["backbone.name"], bam["evaluate.scoring"]) == (
        "bam",
        "resnet50-bam",
        "bam",
    )


def test_the_golden_numbers_were_made_with_the_released_reading():
    said = {
        key.removeprefix("method."): v for key, v in says("released").items() if key.startswith("method.")
    }
    assert said.items() >= {key: value for key, value in PUBLISHED.items() if key != "width"}.items()


def test_the_value_counts_and_not_the_word(values):
    before = keys(values)
    assert values["method"]["mask"] == values["evaluate"]["tta"] == WORD and values["reading"] == "paper"
    values["method"]["mask"], values["evaluate"]["tta"] = "dicm", "none"
    assert keys(values) == before


def test_a_value_in_the_place_of_the_word_is_free(values):
    values |= {"reading": "released"}
    values["method"]["delta_compare"] = ">="
    method = params.check(values).method
    assert (method.delta_compare, method.mask, method.embedding) == (">=", "transposed", True)


def test_a_method_may_have_a_reading_of_its_own(values):
    values["methods"] |= {
        "released": {"reading": "released", "shot_cam": "all"},
        "word": {"reading": "released", "blocks": WORD, "cross": 1},
        "plain": {"mask": WORD},
    }
    made = params.check(values)
    released = made.resolve("released")
    assert (released.mask, released.shot_weights, released.shot_cam) == ("transposed", "gram", "all")
    assert released.blocks == made.method.blocks  # a number, no word
    assert (made.resolve("word").blocks, made.resolve("word").cross) == (6, 1)
    assert made.resolve("plain") == made.resolve("i2r") == made.method


def test_mistakes_are_named(values):
    with pytest.raises(ParamsError, match="reading: must be paper, released or bam, got 'authors'"):
        params.check(values | {"reading": "authors"})
    values["methods"]["mine"] = {"reading": "mine"}
    with pytest.raises(ParamsError, match="got 'mine'"):
        params.check(values)
    del values["methods"]["mine"]
    values["train"]["momentum"] = WORD
    with pytest.raises(ParamsError, match=r"train\.momentum: no reading says anything of it"):
        params.check(values)


@pytest.mark.parametrize("reading", READINGS)
def test_the_preset_of_pascal_serves_every_reading(reading):
    made = params.check(params.read(PRESETS / "pascal.yaml") | {"reading": reading})
    assert plan.make_plan(made).jobs
    bam = made.resolve("bam")
    assert (bam.network, bam.prior, bam.ensemble, bam.shot_weights) == ("bam", "bam", True, "gram")
    assert made.method.network == "i2r"


def test_the_table_is_printed(capsys):
    cli.main(["readings"])
    text = capsys.readouterr().out
    for option in OPTIONS:
        assert option.key in text and option.where in text
    assert "(200 epochs)" in text
