"""The report on synthetic finished jobs: tables, sentences, gaps and figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import fake_jobs
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT

from i2r.data.episodes import expected_queries
from i2r.metrics.statistics import seed_interval
from i2r.paper import comparable, published
from i2r.pipeline.jobs import run_job
from i2r.pipeline.spec import write_spec
from i2r.report import cells, claims, classes
from i2r.report.finished import ResultsError, read_job
from i2r.report.forms import table1
from i2r.report.results import Results
from i2r.report.seeds import seeds_said
from i2r.report.target import Target, labels
from i2r.report.text import BEST, SECOND, Grid


def values_of(folder):
    """Params and input folders of a finished report."""
    spec = json.loads((folder / "manifest.json").read_text())["spec"]
    store = folder.parents[1]
    inputs = {role: store / given["step"] / given["key"] for role, given in spec["inputs"].items()}
    return spec["params"], inputs


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of the report on the experiment of fake_jobs."""
    return fake_jobs.report(tmp_path_factory.mktemp("report") / "results")


@pytest.fixture(scope="module")
def results(home):
    return Results(*values_of(home))


def page_of(folder) -> str:
    """The text of report.html."""
    text = re.sub(r"<(style|script)>.*?</\1>", "", (folder / "report.html").read_text(), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)).replace(" ,", ",")


def test_the_page_describes_the_data(home):
    """Mugs are in half of the images, and so in most queries of fold 0."""
    page = page_of(home)
    assert "30 training and 30 validation images; width x height from 80 x 96 to 95 x 96 pixels" in page
    found = re.search(
        r"Fold 0 : of 1000 queries ([\d.]+) \((\d+) %\) are expected to be of mug and ([\d.]+) of (\w+);",
        page,
    )
    lists = next(job for job in Results(*values_of(home)).jobs.values() if job.label == "shapes-fold0")
    expected = expected_queries(lists.json("lists.json"), 1000, 1, 5)
    assert sum(expected.values()) == pytest.approx(1000)
    assert int(found[2]) == round(expected[4] / 10) > 40
    assert [float(found[at]) for at in (1, 3)] == pytest.approx(
        [expected[4], min(expected.values())], abs=0.05
    )
    assert "4 mug 16 (16) 16 (16) " in page and "Classes that stand together most often" in page
    for name in ("samples", "classes", "queries"):
        assert (home / f"figures/data-{name}.png").stat().st_size > 1000
    assert (home / "report.html").read_text().count('alt="shapes: Images from the lists') == 1


def test_the_page_names_the_images_that_were_left_out(home, tmp_path):
    assert "not usable" not in page_of(home)
    data = {"source": "voc", "root": "photographs", "size": 97, "faulty": "leave_out"}
    other = {"data": data, "backbone": {"name": "squeezenet1_1"}}
    methods = {"i2r": {}, "kept": {"data": {"faulty": "stop"}}}
    targets = {"table1": {"methods": ["i2r", "kept"], "folds": [0]}}
    folder = fake_jobs.report(tmp_path / "results", methods=methods, targets=targets, **other)
    assert (
        len(list((folder / "figures").glob("data-samples-photographs-*.png"))) == 2
    )  # of the data without and with it
    page = page_of(folder)
    assert "Images that are not usable Left out of the lists ( data.faulty: leave_out ):" in page
    left_out = "photographs: JPEGImages/train_000099.jpg: damaged, part of the image is missing"
    assert page.count(left_out) == 2  # also in the checklist


def test_metrics_has_one_row_a_run(home):
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
    assert len(trained) == 3 * 2 + 4  # those of table1, and the others of table3
    baselines = metrics[metrics["checkpoint"] == "none"]
    assert set(baselines["method"]) == set(fake_jobs.BASELINES)
    assert len(baselines) == 2 * len(fake_jobs.BASELINES) and (baselines["on"] == "i2r").all()
    assert baselines["seed"].isna().all() and (trained["seed"] == 0).all()
    assert metrics["miou"].between(0, 100).all() and (metrics["dataset"] == "shapes").all()


def test_every_table_has_the_same_interval_for_the_same_number(home):
    metrics = pd.read_csv(home / "metrics.csv")
    ablation = pd.read_csv(home / "ablation.csv").set_index("method")
    text = (home / "ablation.md").read_text()
    shown = metrics[(metrics["fold"] == 0) & metrics["method"].isin(ablation.index)]
    assert len(shown) == len(ablation) > 4
    for row in shown.itertuples():
        ends = ablation.loc[row.method, ["mean low", "mean high"]].tolist()
        assert ends == pytest.approx([row.miou_low, row.miou_high], abs=1e-3)
        assert f"{row.miou:.1f} [{row.miou_low:.1f}, {row.miou_high:.1f}]" in text


def test_intervals_of_metrics_equal_those_of_table_md(tmp_path):
    targets = {"table1": {"methods": ["i2r"], "folds": [0], "baselines": "i2r"}}
    folder = fake_jobs.report(tmp_path / "results", targets=targets)
    text = (folder / "table.md").read_text().replace("*", "").replace("<u>", "").replace("</u>", "")
    metrics = pd.read_csv(folder / "metrics.csv")
    assert len(metrics) == 1 + len(fake_jobs.BASELINES)
    for row in metrics.itertuples():
        assert f"{row.miou:.1f} [{row.miou_low:.1f}, {row.miou_high:.1f}]" in text


def test_excluded_classes_are_named_and_have_no_number(home):
    classes = pd.read_csv(home / "per_class.csv")
    gear = classes[classes["name"] == "gear"]
    assert gear["iou"].isna().all() and gear["why"].str.contains("too few test images").all()
    assert "class 2 (gear): excluded: too few test images (1)" in page_of(home)


def test_table_has_the_form_of_table_1(home):
    table = pd.read_csv(home / "table.csv").set_index("method")
    assert list(table.index[:3]) == ["i2r", "i2r-ordered", "bam"]
    folds = table[["1-shot fold-0", "1-shot fold-1"]]
    np.testing.assert_allclose(table["1-shot mean"], folds.mean(axis=1), atol=1e-3)
    assert (table["1-shot mean low"] < table["1-shot mean"]).all()
    assert table["1-shot paper"].isna().all()  # the generated data set is not PASCAL
    text = (home / "table.md").read_text()
    assert "the data set is generated" in text and "**" in text and "I²R, ordered prior" in text


def test_the_page_has_the_iou_of_each_class(home, results):
    [grid] = classes.grids(results, labels(results))
    table = pd.read_csv(home / "per_class.csv")
    means = table[table["on"].isna()].groupby(["name", "method"])["iou"].mean()
    names = [label for _, label in grid.header]
    assert names[:4] == ["Class", "Fold", "I²R", "I²R, ordered prior"]
    mug = next(row for row in grid.rows if row[0] == "4 mug")
    assert mug[1:4] == ["0", f"{means['mug', 'i2r']:.1f}", f"{means['mug', 'i2r-ordered']:.1f}"]
    assert not any("gear" in row[0] for row in grid.rows)  # excluded
    for (row, column), _ in grid.marks.items():
        numbers = [float(text) for text in grid.rows[row][2:] if text != "-"]
        assert float(grid.rows[row][column]) == max(numbers)
    assert len(grid.marks) == len(grid.rows) and " ".join(mug) in page_of(home)


def test_metrics_json_is_nested_for_dvc(home):
    numbers = json.loads((home / "metrics.json").read_text())
    assert set(numbers["bam"]["1-shot"]["miou"]) == {"fold0", "fold1", "mean"}
    assert set(numbers["prototype"]["1-shot"]) == {"miou", "fb_iou"}


def test_page_says_what_the_numbers_say(home):
    text = page_of(home)
    assert "reaches" in text and "(required: +10; one training seed: no verdict" in text
    assert "network.prior: ordered, not pmgm" in text and "Missing" not in text
    for key in {row.key for row in pd.read_csv(home / "metrics.csv", dtype=str).itertuples()}:
        assert key in text and f"{key}.json" in text
    for part in ("Environment", "torch", "train", "lr 0.01", "How each number was made"):
        assert part in text


def test_metrics_and_plots_of_dvc_are_in_the_report(home):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    for entry in (*stages["metrics"], *stages["plots"]):
        path, form = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
        file = home / path.removeprefix("results/${experiment}/report/")
        assert file.is_file(), path
        if form:
            assert {form["x"], form["y"]} <= set(pd.read_csv(file, nrows=1).columns), path


def test_page_needs_no_other_file(home):
    text = (home / "report.html").read_text()
    assert 'src="figures' not in text and "data:image/png;base64" in text and "http" not in text


def test_every_target_and_every_method_that_it_names_has_figures(home):
    names = {path.stem for path in (home / "figures").iterdir()}
    for method in ("i2r", "i2r-ordered", "bam"):
        assert {f"episodes-{method}-fold0", f"episodes-{method}-fold1"} <= names
    assert {"table1", "table3", "table4", "curves", "compare-fold0", "compare-fold1"} <= names
    assert "episodes-decoder-fold0" not in names  # only an ablation names it


def test_rows_of_table_3_are_found_by_their_options(home):
    table = pd.read_csv(home / "ablation.csv").set_index("method")
    found = {
        "i2r": "full",
        "no-pmgm": "no-pmgm",
        "no-mask": "no-mask",
        "no-support": "pmgm",
        "decoder": "decoder",
    }
    assert table["row"].dropna().to_dict() == found
    assert table.at["i2r", "published"] == 72.2 and table["paper"].isna().all()
    gain = table.at["no-mask", "mean"] - table.at["i2r", "mean"]
    assert table.at["no-mask", "difference"] == pytest.approx(gain, abs=1e-3)


def test_two_methods_on_one_row_of_the_paper_both_stand_there(tmp_path):
    methods = fake_jobs.METHODS | {"wide": {"label": "I²R, wide", "network": {"width": 128}}}
    methods["twin"] = {"label": "I²R"}  # shares every job with i2r
    targets = {"table3": {"methods": ["i2r", "wide", "twin", "no-pmgm", "no-mask"], "folds": [0]}}
    folder = fake_jobs.report(tmp_path / "results", methods=methods, targets=targets)
    table = pd.read_csv(folder / "ablation.csv").set_index("method")
    assert list(table.index) == ["i2r", "wide", "twin", "no-pmgm", "no-mask"]
    assert (table.loc[["i2r", "wide", "twin"], "row"] == "full").all()
    assert table.at["twin", "mean"] == table.at["i2r", "mean"]
    text = (folder / "ablation.md").read_text()
    for name in ("I²R (i2r)", "I²R (twin)", "I²R, wide"):
        assert f"| {name} − without PMGM |" in text
    metrics = pd.read_csv(folder / "metrics.csv").set_index("method")
    assert metrics.at["twin", "key"] == metrics.at["i2r", "key"]


def test_a_network_without_the_papers_components_stands_in_table_3(tmp_path):
    methods = fake_jobs.METHODS | {"bam": {"label": "BAM", "network": "bam"}, "hsnet": {"network": "hsnet"}}
    targets = {"table3": {"methods": ["i2r", "bam", "hsnet"], "folds": [0]}}
    folder = fake_jobs.report(tmp_path / "results", methods=methods, targets=targets)
    assert "| BAM | bam |  |  |  |" in (folder / "ablation.md").read_text()
    assert "| hsnet |  |  |  |  |" in (folder / "ablation.md").read_text()


def test_two_backbones_shots_and_readings_stand_in_one_table(tmp_path):
    methods = {"i2r": {"label": "I²R"}, "bam": {"label": "BAM", "network": "bam"}}
    methods["i2r-50"] = {"label": "I²R", "backbone": {"name": "resnet50"}}
    methods["released"] = {
        "label": "I²R as released", "reading": "released", "backbone": {"name": "resnet50"},
        "base_learner": {"trains": "head"}, "cam_head": {"mode": "pretrained"},
    }  # fmt: skip
    names = list(methods)
    targets = {
        "table1": {"methods": names, "folds": [0], "shots": [1, 5], "baselines": "i2r"},
        "big": {"form": "table1", "methods": ["i2r-50"], "folds": [0], "baselines": "i2r-50"},
    }
    folder = fake_jobs.report(tmp_path / "results", methods=methods, targets=targets)
    table = pd.read_csv(folder / "table.csv")
    own = table[table["target"] == "table1"].set_index("id")
    assert own.loc[names, "backbone"].tolist() == ["small", "small", "resnet50", "resnet50"]
    assert own.at["released", "reading"] == "released"
    assert {"1-shot mean", "5-shot mean"} <= set(table.columns)
    np.testing.assert_allclose(own.loc["i2r", "5-shot mean"] - own.loc["i2r", "1-shot mean"], 8, atol=2)
    assert "prototype@i2r" in own.index and "prototype@i2r-50" not in own.index
    text = (folder / "table.md").read_text()
    assert "I²R (i2r-50)" in text and "prototype matching, on I²R (i2r-50)" in text and "Reading" in text
    assert (folder / "figures" / "table1-5shot.png").is_file()


def test_several_seeds_are_counted(tmp_path):
    targets = {"table1": {"methods": ["i2r"], "folds": [0], "seeds": [0, 1, 2], "baselines": "i2r"}}
    folder = fake_jobs.report(tmp_path / "results", targets=targets)
    text = page_of(folder)
    assert "means over 3 training seeds" in text and "one training seed" not in text


def test_one_method_without_baselines_has_no_sentence_without_data(tmp_path):
    targets = {"table1": {"methods": ["i2r"], "folds": [0]}}
    folder = fake_jobs.report(tmp_path / "results", targets=targets)
    said = page_of(folder).partition("How each number was made Below")[0]
    assert "I²R reaches" in said
    for word in (
        "baseline",
        "bar of",
        "against",
        "Table 3",
        "Table 4",
        "prior map",
        "Missing",
        "nan",
    ):
        assert word not in said, word
    for name in ("ablation", "priors"):
        assert (folder / f"{name}.md").read_text() == "No target of this experiment has this form.\n"
        assert len(pd.read_csv(folder / f"{name}.csv")) == 0
    assert not list((folder / "figures").glob("compare*"))


def test_a_fold_without_classes_makes_no_number(tmp_path):
    folder = fake_jobs.report(tmp_path / "results", empty_fold=1)
    metrics = pd.read_csv(folder / "metrics.csv")
    empty = metrics[metrics["fold"] == 1]
    assert empty["miou"].isna().all() and (empty["why"] == "no class has 5 test images").all()
    table = pd.read_csv(folder / "table.csv").set_index("method")
    assert table["1-shot mean"].equals(table["1-shot fold-0"].rename("1-shot mean"))
    text = page_of(folder)
    assert "no class has 5 test images" in text and "mIoU on fold 0" in text
    assert "Mean of 0" in (folder / "table.md").read_text()


def test_a_report_of_empty_folds_alone_says_that_there_is_no_score(tmp_path):
    targets = {"table1": {"methods": ["i2r", "bam"], "folds": [1], "baselines": "i2r"}}
    targets |= {
        "table3": {"methods": ["i2r"], "folds": [1]},
        "table4": {"methods": ["i2r"], "folds": [1], "baselines": "i2r"},
    }
    folder = fake_jobs.report(tmp_path / "results", empty_fold=1, targets=targets)
    text = page_of(folder)
    assert (
        "No fold has a class to score" in text
        and "reaches" not in text
        and "nan" not in text.split("How each")[0]
    )


def test_a_form_that_the_paper_does_not_have_has_no_claims_and_no_numbers_of_it(home):
    """As that of docs/extending.md."""
    params, inputs = values_of(home)
    params["targets"] = {"mine": params["targets"]["table1"] | {"form": "folds"}}
    for row in (*params["runs"], *params["baselines"]):
        row["target"] = "mine"
    target = Target("mine", Results(params, inputs))
    assert len(target.items) and not len(claims.table([target])) and not len(cells.table([target]))


def test_a_missing_job_is_a_gap_with_a_reason(home):
    params, inputs = values_of(home)
    row = next(r for r in params["runs"] if (r["target"], r["method"], r["fold"]) == ("table1", "i2r", 1))
    inputs[row["evaluate"]] = home / "nowhere"
    results = Results(params, inputs)
    assert any("the job has not finished" in gap for gap in results.gaps)
    assert "i2r, 1-shot, fold 1, seed 0: not evaluated" in results.missing()
    target = Target("table1", results)
    table = target.table("shapes", 1)
    assert np.isnan(table.at["i2r", 1]) and np.isnan(table.at["i2r", "mean"]) and table.at["i2r", 0] > 0
    assert "**I²R** has not been evaluated on every fold: no verdict." in table1.verdicts(target, "shapes", 1)


def test_priors_table_has_a_measure_that_does_not_depend_on_calibration(home):
    table = pd.read_csv(home / "priors.csv")
    assert set(table["measure"]) == {"bce", "bce_calibrated", "bce_background", "ap", "iou_best"}
    row = table[(table["measure"] == "bce") & (table["prior"] == "pmgm")].iloc[0]
    assert row["mean"] == pytest.approx((row["fold-0"] + row["fold-1"]) / 2, abs=1e-3)
    text = (home / "priors.md").read_text()
    assert "CAM+ against the object" in text and "mug 80 %" in text  # class 3 of the classifier, from 0


def test_priors_alone_can_have_more_evaluation_seeds_than_methods(tmp_path):
    """Table 4 has a deviation over them in every fold; tables with methods stay on the methods' episodes."""
    targets = {
        "table1": {"methods": ["i2r"], "folds": [0, 1], "baselines": "i2r"},
        "table4": {"folds": [0, 1], "baselines": "i2r", "evaluation_seeds": [0, 1, 2]},
    }
    plan = fake_jobs.make(tmp_path, targets=targets)
    count = Counter(spec.step for spec in plan.jobs.values())
    assert count["baselines"] == 6 and count["evaluate"] == count["train"] == 2
    spec = fake_jobs.report_of(plan)
    run_job(spec.path(tmp_path))
    table = pd.read_csv(tmp_path / spec.folder / "priors.csv")
    row = table[(table["measure"] == "bce") & (table["prior"] == "pmgm")].iloc[0]
    values = [0.41, 0.42, 0.43]  # of fold 0, see fake_jobs
    assert row["fold-0"] == pytest.approx(np.mean(values), abs=1e-4)
    assert row["fold-0 deviation"] == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert "| 0.4200 ± 0.0100 |" in (tmp_path / spec.folder / "priors.md").read_text()
    results = Results(spec.params, {role: tmp_path / given.folder for role, given in spec.inputs.items()})
    for name, seeds in (("table1", {0}), ("table4", {0, 1, 2})):
        target = Target(name, results)
        assert {item.row["eval_seed"] for item in target.items if item.baseline} == seeds


def test_the_released_prior_has_a_deviation_over_drawn_embeddings(tmp_path):
    targets = {"table4": {"folds": [0, 1], "baselines": "i2r"}}
    methods = {"i2r": {"reading": "released", "cam_head": {"mode": "untouched"}}}
    folder = fake_jobs.report(tmp_path, targets=targets, methods=methods)
    text = (folder / "priors.md").read_text()
    assert "with a random embedding (released), 5 draws" in text and "30.0 % of supports" in text
    deviation = np.std([0.5, 0.6, 0.7, 0.8, 0.9], ddof=1)
    assert f"| 0.4100 | 0.7000 ± {deviation:.4f} | 0.5000 | 0.9000 |" in text
    table = pd.read_csv(folder / "priors.csv")
    row = table[(table["measure"] == "bce") & (table["prior"] == "embedding")].iloc[0]
    assert row["mean"] == pytest.approx(0.7)
    plain = fake_jobs.report(tmp_path / "plain", targets=targets)
    assert "embedding" not in (plain / "priors.md").read_text()


def test_ratio_of_masks_is_in_percent(home):
    text = (home / "ablation.md").read_text()
    assert "| Method | Block | Fold 0 | Mean |" in text
    assert "| I²R | 1 | 0.0100 | 0.0100 |" in text and "| I²R | 4 | 0.0300 | 0.0300 |" in text


def test_components_are_those_of_the_options():
    def sections(prior="pmgm", mask="dicm", support=True, test="none"):
        return {
            "network": {"name": "i2r", "prior": prior, "mask": mask, "support_branch": support},
            "evaluate": {"mask": test},
        }

    def row(reading="paper", **options):
        return published.table3_row(published.components(sections(**options), reading))

    assert (
        row() == "full" and row(test="cyctr") == "dicm-cyctr" and row(mask="cyctr", test="cyctr") == "cyctr"
    )
    assert row(mask="transposed") is None and row("released", mask="transposed") == "full"
    assert row(prior="ordered") is None and row(prior="bam", mask="none", support=False) == "decoder"
    assert published.main_name(sections(), "paper") == "I2R"
    assert published.main_name(sections(mask="none"), "paper") is None
    assert published.main_name({"network": {"name": "bam", "prior": "bam"}}, "paper") == "BAM"


def test_papers_numbers_stand_beside_ours_where_comparable(results, monkeypatch):
    monkeypatch.setattr(table1, "differences", lambda *_: [])
    monkeypatch.setattr(table1, "main_backbone", lambda *_: "resnet50")
    target = Target("table1", results)
    notes = {name: [] for name in target.trained}
    table = table1.main_frame(target, "shapes", notes).set_index("method")
    assert table.at["i2r", "1-shot paper"] == 72.2 and table.at["bam", "1-shot paper"] == 68.3
    assert table.at["AENet", "training"] == "published" and table.at["AENet", "1-shot fold-1"] == 75.9
    assert np.isnan(table.at["prototype", "1-shot paper"]) and np.isnan(
        table.at["i2r-ordered", "1-shot paper"]
    )
    text = table1.main_grid(target, "shapes", table.reset_index(), notes).markdown()
    assert "AENet (published)" in text and "paper, mean" in text and "The paper's numbers are shown" in text


def test_coco_stands_beside_table_2_and_not_beside_the_other_tables(tmp_path, monkeypatch):
    monkeypatch.setitem(
        comparable.DATA, "coco", comparable.DATA["coco"]._replace(images={"train": 30, "val": 30})
    )
    methods = {"i2r": {"label": "I²R"}, "small": {"data": {"size": 473}}}
    targets = {
        "table2": {"form": "table1", "methods": list(methods)},
        "table3": {"methods": ["i2r"], "folds": [0]},
        "table4": {"baselines": "i2r"},
    }
    sections = {"data": {"source": "coco", "root": "coco2014"}, "backbone": {}, "network": {}, "train": {}}
    sections |= {"base_learner": {}, "reading": "released", "methods": methods, "targets": targets}
    folder = fake_jobs.report(tmp_path / "results", **sections)
    table = pd.read_csv(folder / "table.csv").set_index("method")
    assert table.at["i2r", "1-shot paper"] == 52.1 and np.isnan(table.at["small", "1-shot paper"])
    assert table.at["CGMGM", "1-shot fold-0"] == 47.1 and table.at["CGMGM", "1-shot mean"] == 47.4
    assert "AENet" not in table.index
    text = (folder / "table.md").read_text()
    assert "form of the paper's Table 2" in text and "numbers are those of its Table 2, page 7" in text
    assert "Not shown for small: images have 473 pixels a side, not 641" in text
    ablation, priors = (pd.read_csv(folder / f"{name}.csv") for name in ("ablation", "priors"))
    assert ablation["paper"].isna().all() and priors["paper"].isna().all()
    for name in ("ablation", "priors"):
        assert "the data set is COCO-20i, not PASCAL-5i" in (folder / f"{name}.md").read_text()


def test_differences_are_paired(results):
    target = Target("table1", results)
    gain, low, high = target.difference("i2r-ordered", "i2r", 1)
    table = target.table("shapes", 1)
    assert gain == pytest.approx(table.at["i2r-ordered", "mean"] - table.at["i2r", "mean"])
    alone = target.mean_samples("i2r", 1).interval()
    assert low < gain < high and high - low < alone[1] - alone[0]


def test_three_training_seeds_have_an_interval_of_their_own(tmp_path):
    targets = {
        "table3": {"methods": ["i2r", "no-pmgm"], "folds": [0, 1], "seeds": [0, 1, 2], "ablation": True}
    }
    targets["table1"] = {"methods": ["i2r"], "folds": [0, 1], "seeds": [0, 1, 2], "baselines": "i2r"}
    evaluate = {"seeds": [0, 1]}
    folder = fake_jobs.report(tmp_path / "results", targets=targets, evaluate=evaluate)
    table = pd.read_csv(folder / "ablation.csv").set_index("method")
    metrics = pd.read_csv(folder / "metrics.csv").query("method == 'i2r'")
    seeds = metrics.groupby("seed")["miou"].mean()
    ends = table.loc["i2r", ["mean seeds low", "mean seeds high"]].tolist()
    assert ends == pytest.approx(seed_interval(list(seeds)), abs=1e-3)
    spread = metrics.groupby("eval_seed")["miou"].mean().std()
    assert table.at["i2r", "mean evaluation deviation"] == pytest.approx(spread, abs=1e-3)
    text = (folder / "ablation.md").read_text()
    assert "[95 %, training seeds]" in text and "sd over evaluation seeds" in text
    assert "(required: +10; not passed" in page_of(folder)
    plan = fake_jobs.make(tmp_path / "again", targets=targets, evaluate=evaluate)
    said = seeds_said(plan, tmp_path / "again", plan.params.made)
    assert len(said) == 1 and "+0.82" in said[0] and "over 3 seeds" in said[0]
    plan = fake_jobs.make(tmp_path / "one", targets={"table3": targets["table3"] | {"seeds": [0]}})
    assert "two training seeds must be evaluated" in seeds_said(plan, tmp_path / "one", ["table3"])[0]


def test_a_broken_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"manifest.json: not a manifest"):
        read_job(tmp_path)


def test_a_grid_is_the_same_in_markdown_and_html():
    grid = Grid([("", "Method"), ("1-shot", "Mean")], [["a <b>", "1.0 [0.5, 1.5]"], ["c|d", "2.0"]])
    grid.mark(1, [1.0, 2.0])
    assert grid.markdown().splitlines()[2:] == ["| a <b> | <u>1.0 [0.5, 1.5]</u> |", "| c\\|d | **2.0** |"]
    text = grid.html()
    assert (
        "a &lt;b&gt;" in text and 'best" >2.0' in text and '<span class="interval">[0.5, 1.5]</span>' in text
    )


@pytest.mark.parametrize(
    ("values", "best", "second"),
    [
        ([2, 1, 2, 1, 0], {0, 2}, {1, 3}),
        ([1, 1], set(), set()),
        ([1, np.nan], set(), set()),
        ([], set(), set()),
    ],
)
def test_equal_values_have_equal_marks(values, best, second):
    grid = Grid([("", "Mean")], [[str(value)] for value in values])
    grid.mark(0, values)
    assert grid.marks == {(row, 0): BEST for row in best} | {(row, 0): SECOND for row in second}


def test_a_class_that_every_method_segments_alike_has_no_best():
    ious = {"one": [0.5, 0.4, 0.3], "two": [0.5, 0.4, 0.1], "three": [0.5, 0.2, 0.2]}
    rows = [
        {
            "dataset": "voc",
            "shot": 1,
            "on": None,
            "fold": 0,
            "class": cls,
            "name": f"n{cls}",
            "id": id,
            "iou": iou,
        }
        for id, own in ious.items()
        for cls, iou in enumerate(own, 1)
    ]
    (grid,) = classes.grids(
        SimpleNamespace(per_class=pd.DataFrame(rows), methods=dict(ious)), {id: id for id in ious}
    )
    assert set(grid.marks) == {(1, 2), (1, 3), (2, 2)}, "none of class 1, two of class 2, one of class 3"


def test_nothing_of_the_report_imports_torch_or_mlflow():
    code = "import sys, i2r.steps.report; print(*{'torch', 'torchvision', 'mlflow'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "\n"
    )


def test_a_report_of_one_target_shows_it_alone_with_its_command(tmp_path):
    plan = fake_jobs.make(tmp_path / "results")
    spec = replace(fake_jobs.report_of(plan, "table4"), options=["--configfile", "my own.yaml"])
    write_spec(spec, tmp_path / "results")
    run_job(spec.path(tmp_path / "results"))
    text = page_of(tmp_path / "results" / spec.folder)
    assert "priors.csv, priors.md, priors.tex · snakemake table4 --configfile &#39;my own.yaml&#39;" in text
    assert "Quality of the priors" in text and "mIoU by fold" not in text
