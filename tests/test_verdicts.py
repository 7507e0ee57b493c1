"""Verdicts on the paper's claims and numbers, from synthetic finished jobs."""

from __future__ import annotations

import fake_jobs
import numpy as np
import pytest

from i2r.config.paper_targets import paper_files, paper_methods
from i2r.report import cells, claims, verdicts
from i2r.report.forms import variants
from i2r.report.results import Results
from i2r.report.target import Target

NAMES = {"table1": ["i2r", "bam"], "table3": list(paper_files()["table3"]["target"]["methods"])}
NAMES |= {"table5": ["i2r", "i2r-cyctr"], "figure5": ["i2r-delta-70", "i2r-delta-adaptive"]}

FEW_IMAGES = fake_jobs.data_set


def targets_of(
    folder, seeds=(0, 1, 2), folds=(0, 1, 2, 3), evaluation_seeds=(0, 1, 2), count=300
) -> dict[str, Target]:
    """The targets of NAMES and table4 in a synthetic experiment on generated data."""
    used = {name for methods in NAMES.values() for name in methods}
    methods = {name: paper_methods()[name] for name in used} | {"bam": {"label": "BAM", "network": "bam"}}
    runs = {"folds": list(folds), "seeds": list(seeds)}
    targets = {name: runs | {"methods": own} for name, own in NAMES.items()}
    targets["table1"]["evaluation_seeds"] = [0, 1]
    targets["table4"] = {"folds": list(folds), "baselines": "i2r", "evaluation_seeds": list(evaluation_seeds)}
    values = {"methods": methods, "targets": targets, "report": {"bootstrap": 1000}}
    plan = fake_jobs.make(folder / "results", count=count, **values)
    spec = fake_jobs.report_of(plan)
    inputs = {role: folder / "results/store" / given.step / given.key for role, given in spec.inputs.items()}
    results = Results(spec.params, inputs)
    return {name: Target(name, results) for name in spec.params["targets"]}


def many_images() -> dict:
    """The index of fake_jobs with 600 validation images, for verdicts need many images of each class."""
    index = FEW_IMAGES()
    for number in range(30, 600):
        same, name = f"val_{number % 30:06d}", f"val_{number:06d}"
        for part in ("val", "sizes", "files"):
            index[part][name] = index[part][same]
    return index


@pytest.fixture(scope="module")
def targets(tmp_path_factory) -> dict[str, Target]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_jobs, "data_set", many_images)
        return targets_of(tmp_path_factory.mktemp("verdicts"))


def said(targets: dict[str, Target]) -> dict[str, str]:
    table = claims.table(list(targets.values()))
    assert list(table.columns) == claims.CLAIMS
    return dict(zip(table["claim"], table["verdict of the claim"], strict=True))


def test_claims_are_judged_by_the_results(targets):
    """In fake_jobs, PMGM and DICM lower mIoU, and PMGM's prior has a lower cross-entropy than the others."""
    found = said(targets)
    assert found["PMGM improves mIoU (row 2 to row 7)"] == "not supported"
    assert found["DICM is better than no mask (row 4 to row 7)"] == "not supported"
    assert found["The support branch improves mIoU (row 3 to row 4)"] == "not supported"
    assert found["DICM is better than CyCTR (row 5 to row 7)"] == "no difference larger than 1"
    assert found["The fixed threshold 0.7 is better than the adaptive one"] == "no difference larger than 1"
    assert found["PMGM's prior has a lower cross-entropy than BAM's on every fold"] == "supported"
    assert found["I²R is better than BAM (ResNet-50, 1-shot)"] == "not supported"


def test_a_claim_without_its_runs_says_why(targets):
    found = said(targets)
    assert (
        found["I²R is better than BAM (ResNet-50, 5-shot)"]
        == "not run: 5 shots are not among those of table1"
    )
    assert (
        found["I²R is better than BAM (ResNet-101, 1-shot)"] == "not run: table1 has no method i2r-resnet101"
    )
    assert found["Fold 0 is low because of bicycle, of which only the frame is labelled"] == (
        "not run: no scored class is called bicycle"
    )
    state_of_the_art = "I²R is 1.9 above the state of the art on PASCAL-5i (ResNet-50, 1-shot; AENet)"
    assert found[state_of_the_art].startswith(
        "not comparable: the data set is generated; the backbone is small"
    )


def test_a_claim_about_a_class_compares_it_with_its_fold(targets, monkeypatch):
    claim = {"says": "mug is low", "kind": "class", "pairs": [{"ours": "i2r", "than": "mug"}]}
    monkeypatch.setattr(claims, "claims_of", lambda target: [claim] if target.name == "table1" else [])
    row = claims.table(list(targets.values())).iloc[0]
    table = targets["table1"].results.per_class
    own = table[(table["id"] == "i2r") & (table["fold"] == 0)]
    mug = own["name"] == "mug"
    gap = own[~mug].groupby("seed")["iou"].mean() - own[mug].groupby("seed")["iou"].mean()
    assert row["difference"] == pytest.approx(gap.mean()) and row["seeds"] == 3


def test_few_seeds_give_no_verdict(tmp_path):
    found = said(targets_of(tmp_path, seeds=[0], folds=[0], evaluation_seeds=[0], count=20))
    assert found["PMGM improves mIoU (row 2 to row 7)"] == "one training seed: no verdict"
    prior = "PMGM's prior has a lower cross-entropy than BAM's on every fold"
    assert found[prior] == "one evaluation seed: no verdict"


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["supported", "supported"], "supported"),
        (
            ["supported", "not supported", "undecided (+1.0 would need about 9 seeds)"],
            "not supported (1 of 3)",
        ),
        (["supported", "no difference larger than 1"], "no difference larger than 1 (1 of 2)"),
        (["not run", "supported"], "not run (1 of 2)"),
    ],
)
def test_a_claim_of_several_comparisons_holds_if_all_do(parts, whole):
    assert claims.overall(parts) == whole


# --- cells -------------------------------------------------------------------------------------------------------


def test_cells_that_cannot_be_compared_name_what_differs(targets):
    table = cells.table(list(targets.values()))
    assert list(table.columns) == cells.CELLS and set(table["verdict"]) == {"not comparable"}
    row = table[
        (table["target"] == "table1") & (table["method"] == "i2r") & (table["column"] == "mean")
    ].iloc[0]
    assert row["paper"] == 72.2 and "images have 97 pixels a side, not 473" in row["why"]
    own = targets["table1"].table("shapes", 1).loc["i2r"]
    assert row["ours"] == pytest.approx(own["mean"]) and row["images low"] == pytest.approx(own["mean low"])
    assert (row["seeds low"], row["seeds high"]) == pytest.approx(
        (own["mean seeds low"], own["mean seeds high"])
    )
    assert (
        row["evaluation deviation"] == pytest.approx(own["mean evaluation deviation"]) and row["seeds"] == 3
    )


def test_cells_in_the_papers_setting_are_reproduced_within_the_margin(targets, monkeypatch):
    monkeypatch.setattr(cells, "not_of_table", lambda *_: [])
    table = cells.table(list(targets.values()))
    ends = {"table1": 1.0, "table3": 1.0, "figure5": 1.0}
    for row in table.itertuples():
        margin = ends.get(row.target, 0.1 * abs(row.paper))
        expected = (
            "reproduced" if abs(row.difference) <= margin else "higher" if row.difference > 0 else "lower"
        )
        assert row.verdict == expected and row.difference == pytest.approx(row.ours - row.paper)
    assert {"higher", "lower"} <= set(table["verdict"])
    ratios = table[(table["target"] == "table5") & (table["method"] == "i2r")]
    assert len(ratios) == 4 * 5 and ratios["ours"].iloc[0] == pytest.approx(0.01)
    priors = table[(table["target"] == "table4") & (table["column"] == "fold-0")].set_index("method")
    measured = targets["table4"].results.priors.query("prior == 'pmgm' and fold == 0")["bce"]
    assert len(measured) == 3 and priors.at["prior pmgm", "ours"] == pytest.approx(measured.mean())
    grid = verdicts.cells_grid(table)
    assert len(grid.rows) == table["column"].str.endswith("mean").sum()


def test_a_mean_over_some_folds_is_not_the_papers(tmp_path, monkeypatch):
    found = targets_of(tmp_path, seeds=[0], folds=[0], count=20)
    monkeypatch.setattr(cells, "not_of_table", lambda *_: [])
    table = cells.table([found["table3"]])
    assert set(table["verdict"]) == {"not comparable"}
    assert set(table["why"]) == {"fold 0, not the mean of folds 0 to 3"} and table["ours"].notna().all()


# --- forms -------------------------------------------------------------------------------------------------------


def test_the_reference_of_variants_is_the_papers_choice(targets):
    target = targets["figure5"]
    assert variants.reference(target, target.trained) == "i2r-delta-70"
    shown = variants.show(target)
    assert shown.title == "CAM thresholds, shapes (form of the paper's Figure 5)"
    rows = shown.frame.set_index("method")
    assert rows.at["i2r-delta-adaptive", "published"] == 71.01 and np.isnan(
        rows.at["i2r-delta-adaptive", "paper"]
    )


def test_targets_with_other_seeds_keep_their_own_runs(tmp_path):
    """table1 has another evaluation seed than its method; the report has both."""
    methods = {"i2r": {"label": "I²R"}}
    targets = {
        "table1": {"methods": ["i2r"], "folds": [0], "evaluation_seeds": [7]},
        "other": {"form": "table1", "methods": ["i2r"], "folds": [0]},
    }
    plan = fake_jobs.make(tmp_path / "results", methods=methods, targets=targets)
    spec = fake_jobs.report_of(plan)
    inputs = {r: tmp_path / "results/store" / given.step / given.key for r, given in spec.inputs.items()}
    results = Results(spec.params, inputs)
    for name, seed in (("table1", 7), ("other", 0)):
        assert [item.row["eval_seed"] for item in Target(name, results).items] == [seed]
