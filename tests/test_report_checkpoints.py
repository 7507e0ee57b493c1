"""The report's table of checkpoints (evaluate.checkpoint: all), on synthetic finished jobs."""

from __future__ import annotations

import json
from pathlib import Path

import fake_jobs
import pandas as pd
import pytest
from test_yardsticks import targets_of

from i2r.metrics.statistics import seed_interval
from i2r.report import checkpoints
from i2r.report.results import Results
from i2r.report.target import Target

KEPT = {"train": {"checkpoints": 2, "validate_every": 1}, "evaluate": {"checkpoint": "all"}}
RUNS = {"folds": [0, 1], "seeds": [0, 1, 2], "ablation": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    methods = {"i2r": {"label": "I²R"}, "kept": {"label": "kept", **KEPT}}
    targets = {"table3": {"methods": list(methods), **RUNS}}
    return fake_jobs.report(tmp_path_factory.mktemp("made") / "results", methods=methods, targets=targets)


def miou(counts: pd.DataFrame) -> float:
    sums = counts.groupby("class")[["inter_fg", "union_fg"]].sum()
    return 100 * (sums["inter_fg"] / sums["union_fg"]).mean()


def scored(made) -> pd.DataFrame:
    """mIoU of each checkpoint (columns) of each evaluation, by fold and training seed."""
    found = {}
    metrics = pd.read_csv(made / "metrics.csv").query("method == 'kept'")
    for row in metrics.itertuples():
        counts = pd.read_csv(made.parents[1] / "evaluate" / row.key / "checkpoints.csv")
        found[row.fold, row.seed] = {name: miou(own) for name, own in counts.groupby("checkpoint")}
    return pd.DataFrame.from_dict(found, orient="index").sort_index()


def test_the_result_is_that_of_the_last_checkpoint(made):
    metrics = pd.read_csv(made / "metrics.csv").set_index(["method", "fold", "seed"]).sort_index()
    assert set(metrics["checkpoint"]) == {"last"}
    assert metrics.loc["kept", "miou"].tolist() == pytest.approx(scored(made)["last"].tolist(), abs=1e-3)
    assert metrics.loc["kept", "miou"].equals(metrics.loc["i2r", "miou"])
    ablation = pd.read_csv(made / "ablation.csv").set_index("method")
    assert ablation.at["kept", "difference"] == 0


def test_last_best_and_best_on_the_test_episodes_stand_side_by_side(made):
    each = scored(made)
    table = pd.read_csv(made / "checkpoints.csv").fillna({"minus": ""})
    assert set(table["method"]) == {"kept"}
    table = table.set_index(["checkpoint", "minus"])
    known = {checkpoints.LAST: each["last"], checkpoints.BEST: each["best"]}
    known[checkpoints.TEST] = each[["9", "10", "last"]].max(axis=1)  # not of the best on held-out classes
    shares = {"9": "33.3", "10": "66.7", "last": "100"}
    known |= {f"after {share} % of the steps": each[name] for name, share in shares.items()}
    assert set(table.index) == {(name, "") for name in known} | set(checkpoints.COMPARED)
    for (name, minus), row in table.iterrows():
        own = known[name] - (known[minus] if minus else 0)
        assert row["value"] == pytest.approx(own.mean(), abs=1e-3)
        seeds = seed_interval(list(own.groupby(level=1).mean()))
        assert [row["seeds low"], row["seeds high"]] == pytest.approx(seeds, abs=1e-3)
        assert row["images low"] < row["value"] < row["images high"]
        assert row["seeds"] == 3
    assert table.at[(checkpoints.TEST, checkpoints.LAST), "value"] > 0.5
    alone = table.loc[checkpoints.TEST].loc[""]
    paired = table.loc[(checkpoints.TEST, checkpoints.LAST)]
    width = [row["images high"] - row["images low"] for row in (paired, alone)]
    assert width[0] < width[1] / 2  # the images are the same


def test_the_page_shows_the_optimism_and_says_that_it_is_no_result(made):
    text, page = (made / "ablation.md").read_text(), (made / "report.html").read_text()
    lead = pd.read_csv(made / "checkpoints.csv").query(
        "checkpoint == @checkpoints.TEST and minus == @checkpoints.LAST",
        local_dict={"checkpoints": checkpoints},
    )
    value, low, high = lead.iloc[0][["value", "images low", "images high"]]
    shown = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    assert f"| kept | best of all on the test episodes (optimistic) | last | {shown} |" in text
    assert "Here 3 evenly spaced ones" in text and "is a control, and no result" in text
    assert f"of 3 checkpoints, the best on the test episodes leads the last by {shown} points" in page
    assert (made / "figures/table3-checkpoints-kept.png").stat().st_size > 10000
    optimistic = pd.read_csv(made / "checkpoints.csv").query("checkpoint == @checkpoints.TEST")["value"].max()
    for file in ("claims.csv", "cells.csv", "metrics.csv", "ablation.csv"):
        assert f"{optimistic:.4f}" not in (made / file).read_text(), file
    means = json.loads((made / "metrics.json").read_text())
    assert means["kept"] == means["i2r"]


def planned_target(results: Path, **options) -> Target:
    """The target of an experiment whose report was not run."""
    targets = {"table3": {"methods": ["kept"], **RUNS}}
    spec = fake_jobs.report_of(fake_jobs.make(results, methods={"kept": KEPT}, targets=targets, **options))
    folders = {role: results / given.folder for role, given in spec.inputs.items()}
    return Target("table3", Results(spec.params, folders))


def test_without_validations_there_is_no_best_on_held_out_classes(tmp_path, monkeypatch):
    counts = fake_jobs.by_checkpoint
    monkeypatch.setattr(
        fake_jobs, "by_checkpoint", lambda *given: counts(*given).query("checkpoint != 'best'")
    )
    table = checkpoints.table([planned_target(tmp_path / "results")])
    assert checkpoints.BEST not in set(table["checkpoint"]) | set(table["minus"])
    assert {checkpoints.LAST, checkpoints.TEST} < set(table["checkpoint"])


def test_a_method_that_was_not_evaluated_in_every_fold_is_not_shown(made):
    target = targets_of(made)[0]
    assert not checkpoints.table([target]).empty
    target.items = [item for item in target.items if (item.id, item.row["fold"]) != ("kept", 1)]
    assert checkpoints.table([target]).empty


def test_a_fold_without_classes_is_left_out(tmp_path):
    table = checkpoints.table([planned_target(tmp_path / "results", empty_fold=1)])
    assert table["value"].notna().all() and set(table["folds"]) == {"0"}
