"""Every table and figure of the paper, for real, on the preset tiny."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from conftest import ROOT

from i2r.config.load import load
from i2r.config.paper_targets import paper_targets
from i2r.pipeline.jobs import run_job
from i2r.pipeline.plan import PAPER, make_plan
from i2r.pipeline.spec import write_spec

OVERLAY = {
    "targets": {
        "table1": None,
        "table3": None,
        "table4": None,
        "own": {"form": "table1", "methods": ["i2r"]},
    },
    "paper": {"folds": [0]},
    "evaluate": {"controls": 0},
}


@pytest.mark.slow
def test_every_table_and_figure_of_the_paper_runs(tmp_path):
    """In one process, because starting a hundred would take longer than their work."""
    params = load(ROOT / "workflow/presets/tiny.yaml", OVERLAY)
    jobs = make_plan(params).target(PAPER)
    results = tmp_path / "results"
    results.mkdir()
    for spec in jobs:
        write_spec(spec, results)
        run_job(spec.path(results))
    out = results / jobs[-1].folder
    page = (out / "report.html").read_text()
    assert jobs[-1].step == "report" and "Missing" not in page
    for name in paper_targets():
        assert f'<section id="{name}"' in page, name
    for name in (
        "figure3",
        "figure4",
        "figure5",
        "figure-s1",
        "figure-s2",
        "figure-s4",
        "figure-s5",
        "table-s1",
    ):
        assert (out / f"figures/{name}.png").stat().st_size > 5000, name
    assert (out / "figures/figure-s3-shapes.png").is_file()
    for name in {path.stem for path in out.glob("*.tex")} - {"numbers"}:
        text = (out / f"{name}.tex").read_text()
        assert text.isascii() and (out / f"{name}.csv").is_file() and (out / f"{name}.md").is_file(), name
    cells, claims = (pd.read_csv(out / f"{name}.csv") for name in ("cells", "claims"))
    assert set(cells["verdict"]) == {"not comparable", "not run", "not possible"}
    possible = cells[(cells["verdict"] != "not possible") & cells["column"].isin(["fold-0", "mean"])]
    assert possible["ours"].notna().all()
    assert cells[cells["verdict"] == "not possible"]["method"].isin(["i2r-resnet101", "bam-resnet101"]).all()
    kept = pd.read_csv(out / "checkpoints.csv")
    assert set(kept["method"]) == {"i2r-kept"} and kept["share"].nunique() == 10
    metrics = pd.read_csv(out / "metrics.csv").query("shot == 1 and seed == 0 and eval_seed == 0")
    last = metrics.set_index("method")["miou"]
    assert last["i2r-kept"] == last["i2r"]
    assert claims["verdict"].str.contains("no verdict|not run|not comparable").all()
    across = claims[claims["target"] == "across"]
    assert list(across["unit"]) == ["points of IoU", "points of average precision"]
    assert across["difference"].notna().all() and across["images low"].notna().tolist() == [False, True]
    table = pd.read_csv(out / "metrics.csv").set_index("method")["dataset"]
    assert table["i2r-across"] == "shapes-drawn" and set(table["i2r"]) == {"shapes"}
    ratios = pd.read_csv(out / "table5.csv").set_index("method")["mean"]
    assert 0 < ratios["i2r"] < ratios["i2r-cyctr"]
    assert json.loads((out / "metrics.json").read_text())["i2r-5-4"]["1-shot"]["fb_iou"]["fold0"] > 0
