"""The report from made-up finished jobs: tables, verdicts, gaps and figures."""

from __future__ import annotations

import json
import shutil

import fake_jobs
import numpy as np
import pandas as pd
import pytest

from i2r.pipeline.jobs import run_job
from i2r.report import results, studies, summary, tables

PARAMS = fake_jobs.PARAMS
SMALL = {"run": {"folds": [0, 1], "methods": ["i2r", "i2r-ordered", "bam"]}, "ablate": {"folds": [0]}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """(results folder, plan) of a small experiment whose jobs have all finished, and its report."""
    folder = tmp_path_factory.mktemp("report") / "results"
    made = fake_jobs.make(folder, **SMALL, report={"pictures": 2, "bootstrap": 50})
    run_job(folder / made.report["spec"])
    return folder, made


@pytest.fixture(scope="module")
def home(store):
    return store[0] / "shapes"


@pytest.fixture(scope="module")
def jobs(store):
    folder, _ = store
    return results.read_jobs(path.parent for path in folder.glob("store/**/manifest.json"))[0]


def test_metrics_has_one_row_an_evaluation(home):
    metrics = pd.read_csv(home / "metrics.csv", dtype={"key": str})
    first = [
        "dataset",
        "backbone",
        "method",
        "shot",
        "fold",
        "seed",
        "checkpoint",
        "miou",
        "fb_iou",
        "episodes",
    ]
    assert list(metrics.columns[:10]) == first
    trained = metrics[metrics["checkpoint"] == "last"]
    assert len(trained) == 3 * 2 + len(PARAMS["ablate"]["methods"])
    baselines = metrics[metrics["checkpoint"] == "none"]
    assert set(baselines["method"]) == set(fake_jobs.BASELINES) and len(baselines) == 2 * len(
        fake_jobs.BASELINES
    )
    assert baselines["seed"].isna().all() and (trained["seed"] == 0).all()
    assert metrics["miou"].between(0, 100).all() and (metrics["dataset"] == "shapes").all()


def test_excluded_classes_are_named_and_have_no_number(home):
    classes = pd.read_csv(home / "per_class.csv")
    gear = classes[classes["name"] == "gear"]
    assert gear["iou"].isna().all() and gear["why"].str.contains("only 1 test image").all()
    assert "class 2 (gear), fold 0" in (home / "summary.md").read_text()


def test_table_has_the_form_of_table_1(home):
    table = pd.read_csv(home / "table.csv").set_index("method")
    assert list(table.index[:3]) == ["i2r", "i2r-ordered", "bam"]
    folds = table[["1-shot fold-0", "1-shot fold-1"]]
    np.testing.assert_allclose(table["1-shot mean"], folds.mean(axis=1), atol=1e-3)
    assert (table["1-shot mean low"] < table["1-shot mean"]).all()
    assert table["1-shot paper"].isna().all()  # the embedded data set is not PASCAL
    text = (home / "table.md").read_text()
    assert "the data set is the embedded one" in text and "**" in text


def test_metrics_json_is_nested_for_dvc(home):
    numbers = json.loads((home / "metrics.json").read_text())
    assert set(numbers["bam"]["1-shot"]["miou"]) == {"fold0", "fold1", "mean"}


def test_first_page_says_which_form_of_the_prior_passes(home):
    text = (home / "summary.md").read_text()
    assert "A finding: the paper's form of the CAM prior misses the bar, ours passes it." in text
    assert "**I²R** reaches" in text and "**not passed**" in text and "**passed**" in text
    assert "Nothing: every evaluation that the params ask for is here." in text
    for part in ("Environment", "torch", "Where each number comes from", "../store/evaluate/"):
        assert part in text


def test_page_with_pictures_needs_no_other_file(home):
    text = (home / "summary.html").read_text()
    assert 'src="figures' not in text and "data:image/png;base64" in text and "http" not in text


def test_every_method_and_fold_has_its_pictures(home):
    names = {path.name for path in (home / "figures").iterdir()}
    for method in ("i2r", "i2r-ordered", "bam"):
        assert {f"episodes-{method}-fold0.png", f"episodes-{method}-fold1.png"} <= names
    assert {"miou.png", "ablation.png", "priors.png", "curves.png", "compare-fold0.png"} <= names


def test_ablation_matches_rows_of_table_3(home):
    table = pd.read_csv(home / "ablation.csv").set_index("method")
    published = {"i2r": 72.2, "i2r-no-pmgm": 71.38, "i2r-no-dicm": 71.61, "i2r-no-support": 71.27}
    for method, value in (published | {"i2r-decoder": 70.3}).items():
        assert table.at[method, "published"] == value
    assert np.isnan(table.at["i2r-ordered", "published"]) and table["paper"].isna().all()
    assert "bam" not in table.index
    gain = table.at["i2r-no-dicm", "mean"] - table.at["i2r", "mean"]
    assert table.at["i2r-no-dicm", "difference"] == pytest.approx(gain, abs=1e-3)


def test_claims_say_direction():
    rows = {"method": ["i2r", "i2r-no-pmgm"], "published": [72.2, 71.38], "mean": [50.0, 47.0]}
    samples = {("i2r", 1, 0): np.full(10, 50.0), ("i2r-no-pmgm", 1, 0): np.full(10, 47.0)}
    ((name, _, paper, here, verdict),) = summary.claims(pd.DataFrame(rows), samples, 1, [0])
    assert (name, paper, verdict) == ("PMGM", "+0.82", "same direction") and here.startswith("+3.0")


def test_priors_table_has_a_measure_that_calibration_cannot_buy(home):
    table = pd.read_csv(home / "priors.csv")
    assert set(table["measure"]) == {"bce", "ap", "iou_best"}
    row = table[(table["measure"] == "bce") & (table["prior"] == "pmgm")].iloc[0]
    assert row["mean"] == pytest.approx((row["fold-0"] + row["fold-1"]) / 2, abs=1e-3)
    text = (home / "priors.md").read_text()
    assert (
        "CAM+ against the object" in text and "mug 80 %" in text
    )  # class 3 of the classifier, counted from 0


def test_published_numbers_are_as_printed():
    paper = tables.paper()
    assert paper["table1"]["resnet50"]["I2R"][1] == [71.8, 77.1, 71.5, 68.4, 72.2]
    assert paper["table1"]["resnet101"]["I2R"][5][-1] == 75.1
    assert len(paper["table1"]["resnet50"]) == 9 and len(paper["table1"]["resnet101"]) == 8
    assert [row["miou"] for row in paper["table3"]] == [70.30, 71.38, 71.27, 71.61, 71.78, 71.52, 72.20]
    assert paper["table4"]["pmgm"]["mean"][-1] == 0.2809
    for backbone in paper[
        "table1"
    ].values():  # means follow from folds but for ABCB's, which are rounded down
        for method, shots in backbone.items():
            for values in shots.values():
                assert abs(np.mean(values[:4]) - values[4]) < (0.1 if method == "ABCB" else 0.0501)


def test_papers_numbers_stand_beside_ours_where_comparable(jobs):
    scored = results.evaluations(jobs).assign(backbone="resnet50")
    run = PARAMS["run"] | SMALL["run"]
    table = tables.main_table(scored, {}, run, comparable=True).set_index("method")
    assert table.at["i2r", "1-shot paper"] == 72.2 and table.at["bam", "1-shot paper"] == 68.3
    assert table.at["AENet", "training"] == "published" and table.at["AENet", "1-shot fold-1"] == 75.9
    assert np.isnan(table.at["prototype", "1-shot paper"])


def test_interval_recomputes_class_sums():
    rng = np.random.default_rng(3)
    table = fake_jobs.episodes(rng, 0, 0.5, 80)
    samples = results.resample(table, 400, [0, 1, 0])
    low, high = results.interval(samples)
    miou = fake_jobs.scores(table)["miou"]
    assert low < miou < high and np.mean(samples) == pytest.approx(miou, abs=1)
    np.testing.assert_array_equal(samples, results.resample(table.sample(frac=1), 400, [0, 1, 0]))
    # one episode a class, whatever is drawn: a class has its IoU or is not there
    single = pd.DataFrame({"index": [0, 1], "class": [1, 2], "inter_fg": [5, 1], "union_fg": [10, 4]})
    drawn = {50.0, 25.0, 37.5}
    assert set(results.resample(single, 50, [1])) <= drawn


def test_a_missing_job_is_a_gap_with_a_reason(store, tmp_path):
    folder, made = store
    shutil.copytree(folder, tmp_path / "results")
    gone = next(
        s
        for s in made.jobs
        if s["step"] == "evaluate" and s["args"]["method"] == "i2r" and s["args"]["fold"] == 1
    )
    found = []
    for spec in made.jobs[:-1]:
        path = tmp_path / "results" / spec["folder"]
        if spec is gone:
            (path / "manifest.json").unlink()
        found.append(path)
    jobs, gaps = results.read_jobs(found)
    assert len(gaps) == 1 and "the job has not finished" in gaps[0]
    params = made.report["params"]
    assert "i2r, 1-shot, fold 1, seed 0: not evaluated" in results.missing(jobs, params)
    scored = results.evaluations(jobs)
    table = tables.main_table(scored, {}, params["run"], comparable=False).set_index("method")
    assert np.isnan(table.at["i2r", "1-shot fold-1"]) and np.isnan(table.at["i2r", "1-shot mean"])
    text = tables.main_markdown(table.reset_index(), scored, params["run"], ["why"])
    assert "| I²R | trained | " in text and " - |" in text
    options = {
        "i2r": {"network": "i2r", "prior": "pmgm"},
        "i2r-ordered": {"network": "i2r", "prior": "ordered"},
    }
    options |= {m: {"network": "bam", "prior": "bam"} for m in ("bam", *PARAMS["ablate"]["methods"])}
    lines = summary.verdicts(scored, {}, params["run"], options, 10, 1)
    assert "**I²R** has not been evaluated on every fold: no verdict." in lines[0]


def test_a_fold_without_classes_makes_no_number(tmp_path):
    made = fake_jobs.make(
        tmp_path, empty_fold=1, **{**SMALL, "ablate": {"folds": [], "methods": []}}, report={"bootstrap": 20}
    )
    run_job(tmp_path / made.report["spec"])
    home = tmp_path / "shapes"
    metrics = pd.read_csv(home / "metrics.csv")
    empty = metrics[metrics["fold"] == 1]
    assert empty["miou"].isna().all() and (empty["why"] == "no class has 5 test images").all()
    table = pd.read_csv(home / "table.csv").set_index("method")
    assert table["1-shot mean"].equals(table["1-shot fold-0"].rename("1-shot mean"))
    text = (home / "summary.md").read_text()
    assert "no class has 5 test images" in text and "reaches" in text and "on fold 0" in text
    assert "Mean of 0" in (home / "table.md").read_text()


def test_an_experiment_without_ablation_has_a_report(tmp_path):
    none = {"folds": [], "seeds": [], "methods": []}
    made = fake_jobs.make(tmp_path, **{**SMALL, "ablate": none}, report={"bootstrap": 20})
    run_job(tmp_path / made.report["spec"])
    assert "reaches" in (tmp_path / "shapes" / "summary.md").read_text()


def test_k_shots_have_their_own_columns(jobs):
    scored = results.evaluations(jobs)
    both = pd.concat([scored, scored.assign(shot=5, miou=scored["miou"] + 5)])
    run = PARAMS["run"] | SMALL["run"] | {"shots": [1, 5]}
    table = tables.main_table(both, {}, run, comparable=False)
    np.testing.assert_allclose(table["5-shot mean"] - table["1-shot mean"], 5)
    assert "5-shot Fold-0" in tables.main_markdown(table, both, run, [])


def test_a_broken_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(results.ResultsError, match=r"manifest.json: not a manifest"):
        results.read_job(tmp_path)


def test_ratio_of_masks_is_in_percent(jobs):
    text = studies.mask_ratios(jobs)
    assert "| Method | Shot | Fold | Seed | CAB 0 | CAB 1 |" in text and "| 0 | 0.0100 | 0.0200 |" in text
