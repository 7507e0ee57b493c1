"""The report's second yardstick, test-time augmentation, and best and last checkpoint, on synthetic finished jobs."""

from __future__ import annotations

import json

import fake_jobs
import numpy as np
import pandas as pd
import pytest

from i2r.config.schema import GRIDS
from i2r.metrics.statistics import seed_interval
from i2r.report import cells, checkpoints
from i2r.report.results import Results
from i2r.report.target import Target


def targets_of(folder) -> list[Target]:
    """The targets of a finished report."""
    spec = json.loads((folder / "manifest.json").read_text())["spec"]
    store = folder.parents[1]
    inputs = {role: store / given["step"] / given["key"] for role, given in spec["inputs"].items()}
    results = Results(spec["params"], inputs)
    return [Target(name, results) for name in spec["params"]["targets"]]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """I2R scored on the grid `original`, with and without test-time augmentation, and baselines."""
    methods = {"i2r": {"label": "I²R"}, "tta": {"label": "with TTA", "evaluate": {"tta": "scales"}}}
    targets = {"table1": {"methods": list(methods), "folds": [0, 1], "baselines": "i2r"}}
    targets["table3"] = {"methods": list(methods), "folds": [0], "ablation": True}
    sections = {"methods": methods, "targets": targets, "evaluate": {"scoring": "original"}}
    return fake_jobs.report(tmp_path_factory.mktemp("made") / "results", **sections)


def test_metrics_has_every_grid(made):
    metrics = pd.read_csv(made / "metrics.csv")
    assert set(metrics["scoring"]) == {"original"}
    for score in ("miou", "fb_iou"):
        assert metrics[f"{score}_original"].equals(metrics[score])
        others = metrics[[f"{score}_{grid}" for grid in GRIDS if grid != "original"]]
        assert others.notna().all(axis=None) and others.lt(metrics[score], axis=0).all(axis=None)
        augmented = metrics["method"] == "tta"
        assert metrics[f"{score}_without_tta"].notna().equals(augmented)


def test_the_main_table_has_a_second_grid_with_its_interval(made):
    """It is `bam` where all methods are scored on `original`."""
    table, metrics = (pd.read_csv(made / f"{name}.csv") for name in ("table", "metrics"))
    for row in table.to_dict("records"):
        own = metrics[(metrics["method"] == row["method"])]
        assert row["1-shot mean on bam"] == pytest.approx(own["miou_bam"].mean(), abs=1e-3)
        low, high = row["1-shot mean on bam low"], row["1-shot mean on bam high"]
        assert low < row["1-shot mean on bam"] < high < row["1-shot mean high"]
    text = (made / "table.md").read_text().replace("*", "").replace("<u>", "").replace("</u>", "")
    row = table[table["method"] == "i2r"].iloc[0]
    value, low, high = (row[f"1-shot mean on bam{end}"] for end in ("", " low", " high"))
    assert f"| {value:.1f} [{low:.1f}, {high:.1f}] |" in text
    assert "1-shot: Mean on the grid bam [95 %, pictures]" in text
    assert "Scored on the grid original (evaluate.scoring), and beside it on the grid bam" in text


def test_methods_with_several_scorings_have_one_common_grid_beside_them(tmp_path):
    methods = {"i2r": {"evaluate": {"scoring": "original"}}, "bam": {"evaluate": {"scoring": "released"}}}
    targets = {"table1": {"methods": list(methods), "folds": [0]}}
    folder = fake_jobs.report(tmp_path / "results", methods=methods, targets=targets)
    table = pd.read_csv(folder / "table.csv").set_index("method")
    metrics = pd.read_csv(folder / "metrics.csv").set_index("method")
    assert table.at["i2r", "1-shot mean on original"] == table.at["i2r", "1-shot mean"]
    for end in ("low", "high"):
        assert table.at["i2r", f"1-shot mean on original {end}"] == table.at["i2r", f"1-shot mean {end}"]
    assert table.at["bam", "1-shot mean on original"] == metrics.at["bam", "miou_original"]
    assert table.at["bam", "1-shot mean on original"] < table.at["bam", "1-shot mean"]
    assert "on the grid original (i2r) and released (bam)" in (folder / "table.md").read_text()


def test_cells_have_every_grid(made):
    table = cells.table([target for target in targets_of(made) if target.name == "table1"])
    row = table[(table["method"] == "i2r") & (table["column"] == "fold-1")].iloc[0]
    metrics = pd.read_csv(made / "metrics.csv").query("method == 'i2r' and fold == 1").iloc[0]
    assert row["ours"] == row["ours on original"]
    for grid in GRIDS:
        assert row[f"ours on {grid}"] == pytest.approx(metrics[f"miou_{grid}"], abs=1e-3)


def test_what_test_time_augmentation_adds_comes_from_one_evaluation(made):
    """The first pass alone has half of the marked pixels, and so half of the mIoU, but for rounding."""
    own = pd.read_csv(made / "metrics.csv").query("method == 'tta'")
    added = (own["miou"] - own["miou_without_tta"]).mean()
    assert added == pytest.approx(own["miou"].mean() / 2, abs=0.2)
    page = (made / "report.html").read_text()
    assert f"<strong>with TTA</strong>: test-time augmentation adds {added:+.1f} [" in page
    assert "<strong>I²R</strong>: test-time augmentation" not in page
    assert page.count("test-time augmentation adds") == 2  # in both targets


# --- best and last checkpoint --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """Two checkpoints of each training: the best on held-out classes is better in fold 1 and worse in fold 0."""
    methods = {"i2r": {"label": "I²R"}, "best": {"evaluate": {"checkpoint": "best"}}}
    methods["bam"] = {"network": "bam", "evaluate": {"checkpoint": "best"}}
    targets = {"table3": {"methods": list(methods), "folds": [0, 1], "seeds": [0, 1, 2], "ablation": True}}
    sections = {"methods": methods, "targets": targets, "train": {"validate_every": 1}}
    return fake_jobs.report(tmp_path_factory.mktemp("chosen") / "results", **sections)


def test_best_and_last_checkpoint_stand_side_by_side(chosen):
    metrics = pd.read_csv(chosen / "metrics.csv").set_index(["method", "fold", "seed"])["miou"]
    last, best = metrics["i2r"], metrics["best"]
    assert (best[0] < last[0]).all() and (best[1] > last[1]).all()
    test = np.maximum(last, best)
    table = pd.read_csv(chosen / "checkpoints.csv").fillna({"minus": ""}).set_index(["checkpoint", "minus"])
    known = {checkpoints.LAST: last, checkpoints.BEST: best, checkpoints.TEST: test}
    assert set(table.index) == {(name, "") for name in known} | set(checkpoints.COMPARED)
    for (name, minus), row in table.iterrows():
        own = known[name] - (known[minus] if minus else 0)
        assert row["value"] == pytest.approx(own.mean(), abs=1e-3) and row["method"] == "i2r"
        seeds = seed_interval(list(own.groupby("seed").mean()))
        assert [row["seeds low"], row["seeds high"]] == pytest.approx(seeds, abs=1e-3)
        assert row["pictures low"] < row["value"] < row["pictures high"]
    assert table.at[(checkpoints.TEST, checkpoints.BEST), "value"] > 0.5
    ablation = pd.read_csv(chosen / "ablation.csv").set_index("method")
    ends = ["difference", "difference low", "difference high"]
    paired = table.loc[(checkpoints.BEST, checkpoints.LAST), ["value", "pictures low", "pictures high"]]
    assert paired.tolist() == pytest.approx(ablation.loc["best", ends].tolist(), abs=1e-3)


def test_the_habit_of_the_field_is_marked_as_optimistic(chosen, made):
    text = (chosen / "ablation.md").read_text()
    assert "| I²R | better of the two on the test episodes (optimistic) | last | +" in text
    assert "is a control, and no result" in text
    for name in ("ablation.md", "table.md"):
        assert "optimistic" not in (made / name).read_text()
    assert pd.read_csv(made / "checkpoints.csv").empty


def test_a_checkpoint_that_was_not_evaluated_everywhere_is_not_compared(chosen):
    target = targets_of(chosen)[0]
    target.items = [i for i in target.items if (i.id, i.row["fold"], i.row["seed"]) != ("best", 1, 2)]
    assert checkpoints.table([target]).empty
