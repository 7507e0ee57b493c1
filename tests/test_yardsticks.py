"""The report's second yardstick, and test-time augmentation, on synthetic finished jobs."""

from __future__ import annotations

import json

import fake_jobs
import pandas as pd
import pytest

from i2r.config.schema import GRIDS
from i2r.report import cells
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
    assert "1-shot: Mean on the grid bam [95 %, images]" in text
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
