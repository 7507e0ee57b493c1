"""The tables and figures of the paper as targets of any experiment: methods and targets of i2r/paper/*.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from i2r.config.experiment import PaperRuns
from i2r.config.methods import overlay, spelled_out

Values = dict[str, Any]


@cache
def paper_files() -> dict[str, Values]:
    """NAME -> the content of i2r/paper/NAME.yaml, in the order of the paper.

    A table or figure has `title`, `where` (in the paper), `data` (its source, null: several or none) and `target`.
    """
    found = sorted(files("i2r.paper").iterdir(), key=lambda file: _place(file.name))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {
        file.name.removesuffix(".yaml"): yaml.load(file.read_text(encoding="utf-8"), loader)
        for file in found
        if file.name.endswith(".yaml")
    }


def _place(name: str) -> tuple[bool, bool, bool, str]:
    """Tables before figures before others, and those of the supplement after the others."""
    table, figure = name.startswith("table"), name.startswith("figure")
    return not table, not figure, "-s" in name, name


def paper_targets() -> dict[str, Values]:
    """Name -> the target of each table and figure."""
    return {name: content["target"] for name, content in paper_files().items() if "target" in content}


def paper_methods() -> dict[str, Values]:
    """Name -> the method's own values, and `needs`: values that the experiment must have for it to make sense."""
    return {
        name: method
        for content in paper_files().values()
        for name, method in content.get("methods", {}).items()
    }


def unmet(needs: Mapping[str, Any], sections: Values) -> str | None:
    """`backbone.name is small, not resnet50`: the first value that a method needs and the experiment lacks."""
    for key, wanted in needs.items():
        found: Any = sections
        for part in key.split("."):
            found = found[part]
        if found != wanted:
            return f"{key} names a file" if wanted is None else f"{key} is {found}, not {wanted}"
    return None


def with_paper(
    given: Values, settled: Values, refused: Callable[[str, Values], str]
) -> tuple[Values, Values, dict[str, dict[str, str]]]:
    """An experiment with the paper's tables and figures below its own methods and targets.

    A method of the experiment replaces the paper's of the same name, and so does a target that names methods or
    baselines. A method without a label (`i2r-5-4: {train: {lr: 0.003}}`) and a target that names neither (`table-s1:
    {folds: [0]}`) change only what they give. A method of the paper that cannot run here (another backbone, a
    combination that params refuse) is left out of the paper's targets, with the reason.

    Args:
        given: the experiment's values.
        settled: its sections, without values written as `reading`.
        refused: name and values of a method -> why params refuse it; empty if they do not.

    Returns:
        The values; those that were added; and target -> method -> why it cannot run.
    """
    own = dict(given.get("methods", {}))
    methods, why = {}, {}
    for name, method in paper_methods().items():
        values = {key: value for key, value in method.items() if key != "needs"}
        if name in own:
            if isinstance(own[name], Mapping) and "label" not in own[name]:
                own[name] = overlay(spelled_out(values), spelled_out(own[name]))
        else:
            why[name] = unmet(method.get("needs", {}), settled) or refused(name, values)
            if not why[name]:
                methods[name] = values
    targets, impossible = {}, {}
    for name, target in paper_targets().items():
        changed = given["targets"].get(name, {})
        if not isinstance(changed, Mapping) or {"methods", "baselines"} & set(changed):
            continue
        wanted = target.get("methods", ())
        impossible[name] = {method: why[method] for method in wanted if why.get(method)}
        possible = [method for method in wanted if not why.get(method)]
        if possible or not wanted:
            runs = _runs(given.get("paper") or {}, target)
            targets[name] = target | {"methods": possible} | runs | changed
    whole = {
        "methods": own | methods,
        "targets": given["targets"] | targets,
        "make": given.get("make") or list(given["targets"]),
    }
    return given | whole, {"methods": methods, "targets": targets}, impossible


def _runs(runs: Values, target: Values) -> Values:
    """The folds, shots and seeds that the section `paper` gives a target of the paper."""
    runs = PaperRuns(**runs).model_dump(exclude_unset=True)
    shots, has = runs.pop("shots", None), target.get("shots", [1])
    kept = [shot for shot in has if shots is None or shot in shots]
    return runs | {"shots": kept or has}
