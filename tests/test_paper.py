"""The paper's numbers, claims and targets as data."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest
from conftest import ROOT

from i2r.config import load
from i2r.config.paper_targets import paper_files, paper_methods, paper_targets
from i2r.paper import audit, published
from i2r.pipeline.plan import PAPER, Plan, make_plan

BY_FOLD = ("table1", "table2")


def rows() -> list[tuple[str, list[float]]]:
    """Every printed row of folds 0 to 3 and their mean: where it stands, its values."""
    found = []
    for table in BY_FOLD:
        for backbone, methods in published.published(table).items():
            for method, shots in methods.items():
                found += [(f"{table} {method} {backbone} {shot}", values) for shot, values in shots.items()]
    for mask, blocks in published.published("table5").items():
        found += [(f"table5 {mask} {block}", values) for block, values in enumerate(blocks)]
    return found + [(f"table4 {prior}", own["mean"]) for prior, own in published.published("table4").items()]


def test_published_numbers_are_as_printed():
    table1, table2 = (published.published(name) for name in BY_FOLD)
    assert table1["resnet50"]["I2R"][1] == [71.8, 77.1, 71.5, 68.4, 72.2]
    assert published.by_fold("table1", "resnet101", "I2R", 5)[-1] == 75.1
    assert table2["resnet50"]["BAM"][1] == [43.8, 51.4, 47.9, 44.5, 46.9]
    assert published.by_fold("table2", "resnet101", "I2R", 5) == [52.8, 64.7, 63.0, 57.4, 59.5]
    assert published.by_fold("table2", "resnet50", "HSNet", 1) is None
    assert [len(table2[backbone]) for backbone in ("resnet50", "resnet101")] == [7, 7]
    assert len(table1["resnet50"]) == 9 and len(table1["resnet101"]) == 8
    components = [row["miou"] for row in published.published("table3").values()]
    assert components == [70.30, 71.38, 71.27, 71.61, 71.78, 71.52, 72.20]
    assert published.table4("pmgm") == 0.2809
    assert published.published("table6") == {
        "xgradcam": 72.20, "hirescam": 71.81, "gradcam": 71.48, "bagcam": 71.37, "gradcam++": 71.36,
    }  # fmt: skip
    grid = published.published("table-s1")
    assert [list(cells) for cells in grid.values()] == [list(range(count + 1)) for count in grid]
    best = max((value, decoders, cross) for decoders, cells in grid.items() for cross, value in cells.items())
    assert best == (72.20, 5, 4)
    assert published.published("table-s2")["coco"]["resnet101"]["I2R"] == [74.8, 74.9]


def test_means_that_folds_do_not_average_to_are_in_the_audit():
    """All others follow to the printed digits; nothing is corrected."""
    tolerance = {
        "table1": 0.0501,
        "table2": 0.0501,
        "table4": 5.1e-5,
        "table5 cyctr": 5.1e-3,
        "table5 dicm": 5.1e-5,
    }
    off = [
        where
        for where, values in rows()
        if abs(np.mean(values[:4]) - values[4])
        > next(t for name, t in tolerance.items() if where.startswith(name))
    ]
    assert off == [
        "table1 ABCB resnet101 1", "table1 ABCB resnet101 5", "table2 HPA resnet101 1", "table2 ABCB resnet101 1",
        "table5 cyctr 0", "table5 cyctr 1",
    ]  # fmt: skip
    said = [row.says for row in audit.audit() if "mean of the folds" in row.says and not row.follows]
    assert len(said) == len(off)


@pytest.mark.parametrize("row", audit.audit(), ids=lambda row: f"{row.where}: {row.says}")
def test_the_audit_records_what_its_formulas_give(row: audit.Row):
    recorded = next(
        r for r in paper_files()["audit"]["rows"] if r["says"] == row.says and r["where"] == row.where
    )
    digits = len(str(recorded["computed"]).partition(".")[2])
    assert row.computed == pytest.approx(recorded["computed"], abs=0.51 * 10.0**-digits)


def test_the_audit_finds_what_does_not_follow():
    follows = {(row.where, row.says): row.follows for row in audit.audit()}
    assert follows["section 4.2", "gain over the best peer of Table 2 (ResNet-50, 1-shot)"]
    assert not follows["section 4.2", "gain over the best peer of Table 1 (ResNet-50, 1-shot)"]
    assert not follows["section 4.3.2", "DICM's mask ratio on average"]
    assert follows["section 3.3", "information that masking columns loses, in percent"]
    assert sum(value is False for value in follows.values()) > 25


def test_claims_name_methods_and_formulas_that_exist():
    methods = {*paper_methods(), "pmgm", "bam", "mean", "constant"}
    for name, content in paper_files().items():
        for claim in content.get("claims", []):
            assert claim.get("kind") == "none" or claim["pairs"], claim["says"]
            for pair in claim.get("pairs", []):
                assert pair["ours"] in methods, (name, pair)
                for formula in {"by", "number"} & set(pair):
                    assert abs(float(audit.value(pair[formula]))) > 0.02, (name, pair)


def test_a_method_of_the_paper_is_defined_once():
    defined = Counter(method for content in paper_files().values() for method in content.get("methods", ()))
    assert max(defined.values()) == 1
    used = {method for target in paper_targets().values() for method in target.get("methods", ())}
    assert used == set(defined)


# --- targets -----------------------------------------------------------------------------------------------------


def planned(preset: str, **changes) -> Plan:
    """The plan of a preset with the paper's targets; shapes as its data where the photographs are not here."""
    layers = load.read_layers(ROOT / f"workflow/presets/{preset}.yaml")
    return make_plan(load.resolve([*layers, ("test", changes)], paper=True))


def steps(plan: Plan, target: str) -> Counter[str]:
    return Counter(plan.jobs[key].step for key in plan.targets[target])


def test_all_targets_of_the_paper_can_be_asked_for_together():
    plan = planned("tiny")
    found = {spec.key for spec in plan.needed("paper")}
    assert "paper" in plan.requests and found == set(plan.targets["paper"])
    assert {spec.key for spec in plan.needed("table5")} - found == {
        plan.needed("table5")[-1].key
    }  # its report


@pytest.fixture(scope="module", params=["pascal", "coco"])
def published_plan(request) -> Plan:
    return planned(request.param)


def test_every_table_and_figure_is_planned(published_plan: Plan):
    assert published_plan.params.paper == list(paper_targets())
    every = {key for name in paper_targets() for key in published_plan.targets[name]}
    together = set(published_plan.targets[PAPER])
    assert {published_plan.jobs[key].step for key in every ^ together} == {"report"}


def test_trainings_of_the_tables(published_plan: Plan):
    """Two networks on two backbones, 1 and 5 shots and four folds; row 6 of Table 3 and the thresholds add none."""
    assert steps(published_plan, "table1")["train"] == 2 * 2 * 2 * 4
    assert steps(published_plan, "table3")["train"] == 6 * 4
    assert steps(published_plan, "table4")["train"] == 0
    assert steps(published_plan, "table5")["train"] == 2 * 4
    assert steps(published_plan, "table6")["train"] == 5 * 4
    assert steps(published_plan, "table-s1")["train"] == 18 * 4
    assert steps(published_plan, "figure5")["train"] == 4
    shared = {key for key in published_plan.targets["table1"] if published_plan.jobs[key].step == "train"}
    for name in ("table-s2", "figure3", "figure-s1", "figure5"):
        own = {key for key in published_plan.targets[name] if published_plan.jobs[key].step == "train"}
        assert own <= shared, name


def test_five_shots_start_from_one(published_plan: Plan):
    jobs = [published_plan.jobs[key] for key in published_plan.targets["table1"]]
    trained = {spec.key: spec for spec in jobs if spec.step == "train"}
    five = [
        spec
        for spec in trained.values()
        if spec.args["shot"] == 5 and spec.params["network"]["name"] == "i2r"
    ]
    assert len(five) == 8
    for spec in five:
        start = trained[spec.inputs["start"].key]
        assert (start.args["shot"], start.args["fold"]) == (1, spec.args["fold"])


def test_the_paper_changes_nothing_that_an_experiment_makes_itself():
    for preset in ("shapes", "tiny", "pascal", "coco"):
        layers = load.read_layers(ROOT / f"workflow/presets/{preset}.yaml")
        alone, with_paper = make_plan(load.resolve(layers)), planned(preset)
        without = [plan.jobs[key] for plan in (alone, with_paper) for key in plan.targets["report"]]
        assert {spec.key for spec in without} == set(alone.targets["report"])
        assert {k: alone.views(k) for k in alone.jobs} == {k: with_paper.views(k) for k in alone.jobs}


def test_a_target_or_method_of_the_experiment_replaces_the_papers():
    params = load.load(ROOT / "workflow/presets/tiny.yaml")
    assert params.values.targets["table1"].methods == ["i2r", "bam"] and params.made == [
        "table1",
        "table3",
        "table4",
    ]
    assert params.methods["bam"].params.train.lr == 0.01 and params.methods["bam"].reading == "paper"
    kept = load.load(ROOT / "workflow/presets/tiny.yaml", {"targets": {"table3": None}})
    assert len(kept.values.targets["table3"].methods) == 7 and kept.made == ["table1", "table4"]


def test_a_target_without_methods_changes_only_what_it_gives_of_the_papers():
    given = {"paper": {"seeds": [0, 1]}, "targets": {"table-s1": {"folds": [2]}, "table1": {"shots": [1]}}}
    params = load.load(ROOT / "workflow/presets/tiny.yaml", given)
    grid, whole = (
        p.values.targets["table-s1"] for p in (params, load.load(ROOT / "workflow/presets/tiny.yaml"))
    )
    assert (
        grid.folds == [2]
        and grid.seeds == [0, 1]
        and grid.methods == whole.methods
        and grid.form == whole.form
    )
    assert params.values.targets["table1"].methods == ["i2r", "bam"]  # tiny's own
    assert params.origin["targets.table-s1.folds"] == load.COMMAND_LINE


def test_a_method_without_a_label_changes_only_what_it_gives_of_the_papers():
    deep = {"train": {"lr": 0.003}}
    given = {"methods": {"i2r-5-4": deep, "i2r-5-3": deep | {"label": "another method"}}}
    params = load.load(ROOT / "workflow/presets/tiny.yaml", given)
    changed, replaced = params.methods["i2r-5-4"], params.methods["i2r-5-3"]
    assert changed.params.train.lr == replaced.params.train.lr == 0.003
    assert (changed.params.network.blocks, changed.params.network.cross) == (5, 4)
    assert changed.label == "5 decoders, 4 with cross-attention" and replaced.label == "another method"
    assert replaced.params.network.blocks != 5  # tiny's
    assert params.methods["i2r-5-5"].params.train.lr == params.values.train.lr


def test_networks_are_tested_on_data_of_another_kind():
    plan = planned("tiny")
    evaluated = {
        next(iter(plan.labels[spec.key])): spec for spec in plan.target("across") if spec.step == "evaluate"
    }
    own, across = (evaluated[f"{name}-1shot-fold1-seed0-eval0"] for name in ("i2r", "i2r-across"))
    same = {role for role in own.inputs if own.inputs[role] == across.inputs[role]}
    assert same == {"backbone", "base_learner", "cam_head", "train"} & set(own.inputs)
    assert set(own.inputs) - same == {"data", "episodes"}
    drawn = plan.jobs[across.inputs["data"].key]
    assert drawn.params["data"]["shapes"]["drawn"] is True
    assert "drawn" not in plan.jobs[own.inputs["data"].key].params["data"]["shapes"]  # it keeps its old key
    coco = load.load(ROOT / "workflow/presets/coco.yaml")
    assert coco.impossible["across"]["i2r-across"] == "data.source is coco, not shapes"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"trained_as": "i3r"}, "methods.other.trained_as: no method is called i3r"),
        ({"trained_as": "second"}, "methods.other.trained_as: second has no networks of its own; name i2r"),
        (
            {"trained_as": "i2r", "train": {"steps": 3}},
            "methods.other.train: the method evaluates the networks of i2r, and can differ in data and evaluate only",
        ),
    ],
)
def test_a_method_with_networks_of_another_changes_only_data_and_evaluation(method, said):
    methods = {"other": method, "second": {"trained_as": "i2r", "evaluate": {"delta": 0.5}}}
    with pytest.raises(load.ParamsError, match=re.escape(said)):
        load.load(ROOT / "workflow/presets/tiny.yaml", {"methods": methods})


def test_what_cannot_run_is_named():
    params = load.load(ROOT / "workflow/presets/tiny.yaml", {"targets": {"table1": None}})
    assert params.impossible["table1"]["i2r-resnet101"] == "backbone.name is small, not resnet50"
    assert params.values.targets["table1"].methods == ["i2r", "bam"]
    given = load.load(ROOT / "workflow/presets/tiny.yaml", {"train": {"weights": "meta.safetensors"}})
    assert "needs a training that keeps checkpoints" in given.impossible["beyond"]["i2r-kept"]
    photographs = load.load(ROOT / "workflow/presets/voc-small.yaml")
    assert photographs.impossible["table2"]["bam-resnet101"] == "backbone.weights names a file"


def test_the_section_paper_chooses_the_runs():
    runs = {"folds": [1], "shots": [1], "seeds": [0, 1, 2], "evaluation_seeds": [4]}
    plan = planned("tiny", paper=runs, targets={"table1": None})
    jobs = [plan.jobs[key] for key in plan.targets["table1"]]
    trained = [spec for spec in jobs if spec.step == "train"]
    places = {(spec.args["fold"], spec.args["shot"], spec.args["seed"]) for spec in trained}
    assert places == set(product([1], [1], [0, 1, 2]))
    assert {spec.args["eval_seed"] for spec in jobs if spec.step == "evaluate"} == {4}
