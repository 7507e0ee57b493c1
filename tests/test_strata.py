"""Strata of test episodes: by look-alikes in the query, size and cover, from the files of finished jobs."""

from types import SimpleNamespace

import fake_jobs
import numpy as np
import pandas as pd
import pytest

from i2r.data import coco, voc
from i2r.data.index_table import write_index
from i2r.data.shapes import silhouettes
from i2r.files import read_json
from i2r.report.results import Results
from i2r.report.strata import COLUMNS, grids, read_data, strata
from i2r.report.target import Target


def data_job(folder, source, classes, val, objects=None):
    """A data job whose images have 10 x 10 pixels; val: image -> {class: pixels}."""
    index = {"source": source, "classes": list(classes), "digest": "d", "train": {}, "val": val}
    index |= {"sizes": {name: [10, 10] for name in val}, "files": {name: ["a", "b"] for name in val}}
    write_index(folder / "index.parquet", index)
    products = {"index.parquet": "sha"}
    if objects is not None:
        pd.DataFrame(objects, columns=["image", "class", "pixels", "visible"]).to_csv(
            folder / "objects.csv", index=False
        )
        products["objects.csv"] = "sha"
    return SimpleNamespace(folder=folder, products=products)


def episodes(*pairs):
    return pd.DataFrame(pairs, columns=["query", "class"])


@pytest.mark.parametrize(
    ("groups", "classes"),
    [
        (voc.GROUPS, voc.VOC_CLASSES),
        (coco.GROUPS, coco.COCO_CLASSES),
        (silhouettes.GROUPS, silhouettes.CLASSES),
    ],
)
def test_every_class_is_in_one_group(groups, classes):
    assert sorted(name for group in groups for name in group) == sorted(classes)


def test_groups_of_coco_are_its_supercategories():
    group = {name: number for number, names in enumerate(coco.GROUPS) for name in names}
    assert len(coco.GROUPS) == 12
    for first, last in (("bicycle", "boat"), ("bird", "giraffe"), ("banana", "cake"), ("tv", "cell phone")):
        assert group[first] == group[last]
    for last, first in (("bench", "bird"), ("bowl", "banana"), ("toilet", "tv"), ("refrigerator", "book")):
        assert group[last] != group[first]


def test_a_photograph_has_a_look_alike_if_another_class_of_its_kind_is_in_it(tmp_path):
    cat, dog, sofa = (str(voc.VOC_CLASSES.index(name) + 1) for name in ("cat", "dog", "sofa"))
    job = data_job(tmp_path, "voc", voc.VOC_CLASSES, {"a": {cat: 10, dog: 30}, "b": {cat: 20, sofa: 40}})
    found = strata(
        *read_data(job), episodes(("a", int(cat)), ("b", int(cat)), ("b", int(sofa)), ("a", int(dog)))
    )
    assert list(found["look-alike"]) == ["yes", "no", "no", "yes"]
    assert list(found["size"]) == ["small", "small", "large", "large"]  # the median is 25 %
    assert "cover" not in found  # nobody knows it of a photograph


def test_an_object_is_covered_if_other_shapes_hide_a_twentieth_of_it(tmp_path):
    shown = {"a": {"1": 10, "10": 10}, "b": {"1": 10, "2": 5}}
    objects = [("a", 1, 60, 60), ("a", 1, 40, 30), ("a", 10, 100, 95), ("b", 1, 50, 50), ("b", 2, 50, 20)]
    job = data_job(tmp_path, "shapes", silhouettes.CLASSES, shown, objects)
    found = strata(*read_data(job), episodes(("a", 1), ("a", 10), ("b", 1), ("b", 2)))
    assert list(found["cover"]) == ["yes", "no", "no", "yes"]
    assert list(found["look-alike"]) == ["yes", "yes", "no", "no"]  # star and leaf; star and gear


def test_the_report_has_every_method_in_every_stratum(tmp_path):
    out = fake_jobs.report(tmp_path / "results")
    table = pd.read_csv(out / "strata.csv")
    scores, gains = table[table["minus"].isna()], table[table["minus"].notna()]
    counts = scores[scores["target"] == "table1"].groupby(["id", "kind"])["episodes"].sum()
    assert set(counts) == {120}  # 60 in each of two folds
    assert set(counts.unstack().columns) == {"look-alike", "size", "cover"}

    own = _recomputed(out, "bam", "look-alike", "yes")
    at = ["target", "id", "kind", "stratum"]
    value = scores.set_index(at)["value"]
    assert value["table1", "bam", "look-alike", "yes"] == pytest.approx(own, abs=1e-3)
    gain = gains[gains["minus"] == "bam"].set_index(at)["value"]
    for name in ("yes", "no"):
        found = [value["table1", id, "look-alike", name] for id in ("i2r", "bam")]
        assert gain["table1", "i2r", "look-alike", name] == pytest.approx(found[0] - found[1], abs=1e-3)
    both = [gain["table1", "i2r", "look-alike", name] for name in ("yes", "no", "change")]
    assert both[2] == pytest.approx(both[0] - both[1], abs=1e-3)
    known = gains.dropna(subset=["low"])
    assert ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).mean() > 0.9
    page = (out / "report.html").read_text()
    assert "By kind of episode" in page
    assert "Look-alike in the query: yes / no" in page


def test_a_method_without_episodes_in_a_stratum_has_a_dash():
    """Methods can have other episodes, by evaluate.protocol or evaluate.episodes."""
    start = {"target": "t", "dataset": "d", "shot": 1, "low": np.nan, "high": np.nan, "folds": 1}
    rows = [
        start | {"id": "a", "kind": "look-alike", "stratum": "yes", "value": 30, "episodes": 4, "images": 3},
        start | {"id": "a", "kind": "look-alike", "stratum": "no", "value": 40, "episodes": 6, "images": 5},
        start | {"id": "b", "kind": "look-alike", "stratum": "no", "value": 50, "episodes": 2, "images": 2},
    ]
    target = SimpleNamespace(name="t", labels={"a": "A", "b": "B"}, datasets=["d"], shots=[1])
    (grid,) = grids(pd.DataFrame(rows, columns=COLUMNS), [target])
    assert grid.rows == [
        ["A", "30.0", "40.0"],
        ["B", "-", "50.0"],
        ["episodes", "4", "6"],
        ["images", "3", "5"],
    ]


def _recomputed(report, id, kind, stratum):
    """mIoU of a method of table1 in a stratum: the mean over folds of the mean over classes."""
    spec, store = read_json(report / "manifest.json")["spec"], report.parents[1]
    folders = {role: store / given["step"] / given["key"] for role, given in spec["inputs"].items()}
    results = Results(spec["params"], folders)
    folds = []
    for item in Target("table1", results).items:
        if item.id == id:
            rows = strata(*read_data(results.known[item.job.inputs["data"]]), item.job.episodes)
            rows = rows[rows[kind] == stratum]
            ious = [part["inter_fg"].sum() / part["union_fg"].sum() for _, part in rows.groupby("class")]
            folds.append(100 * np.mean(ious))
    return np.mean(folds)
