"""Objects of which nothing is left at the network's side: found, never a support, and reported apart as queries."""

import csv
import json

import cv2
import fake_jobs
import numpy as np
import pandas as pd
import pytest
from learning import make_job, prepare
from PIL import Image
from test_data_lists import index, rule
from test_pipeline import keys, planned

from i2r import cli
from i2r.data import episodes, pairs
from i2r.data.dataset import Dataset
from i2r.data.index_table import write_index
from i2r.data.list_folder import read_lists
from i2r.data.lists import fold_lists
from i2r.data.pairs import open_mask
from i2r.data.placement import droppable, placed_mask, placement
from i2r.data.sources import open_source
from i2r.data.transforms import evaluation_view
from i2r.data.vanished import vanished
from i2r.metrics import segmentation
from i2r.steps import baselines, evaluate, train

SIDES = (33, 57, 97, 473)
SMALL = {"data": {"size": 57, "min_area": 5}}


@pytest.mark.parametrize("size", SIDES)
@pytest.mark.parametrize("shape", [(60, 81), (375, 500), (96, 96), (7, 300), (500, 334)])
def test_no_more_pixels_than_said_are_left_out(shape, size):
    numbered = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    place = placement(*shape, size)
    left = cv2.resize(numbered, (place.inner_w, place.inner_h), interpolation=cv2.INTER_NEAREST)
    assert droppable(*shape, size) == numbered.size - len(np.unique(left))


def test_the_mask_is_that_of_the_evaluation_view():
    mask = np.random.default_rng(0).integers(0, 5, (70, 130)).astype(np.uint8)
    _, labels, place = evaluation_view(np.zeros((70, 130, 3), np.uint8), mask, 57)
    assert (labels[: place.inner_h, : place.inner_w].numpy() == placed_mask(mask, 57)).all()


def thin_objects(folder, count):
    """A data set of `count` images a split, with lines one to three pixels wide of several classes."""
    rng = np.random.default_rng(0)
    made = index({}, {})
    (folder / "SegmentationClassAug").mkdir(parents=True)
    for split in ("train", "val"):
        for number in range(count):
            mask = np.zeros(rng.integers(60, 140, 2), np.uint8)
            for cls in rng.choice(np.arange(6, 21) if split == "train" else np.arange(1, 6), 3):
                across, wide = rng.integers(50), rng.integers(1, 4)
                mask[across : across + wide, : rng.integers(5, 60)] = cls
            name = f"{split}{number}"
            Image.fromarray(mask).save(folder / f"SegmentationClassAug/{name}.png")
            made[split][name] = {str(c): int((mask == c).sum()) for c in np.unique(mask) if c}
            made["sizes"][name] = list(mask.shape)
    return made, Dataset(folder / "no index", {}, folder, open_source("voc"))


def test_exactly_the_objects_without_a_pixel_left_are_found(tmp_path, monkeypatch):
    made, dataset = thin_objects(tmp_path, 40)
    lists = fold_lists(made, 0, min_area=10)
    for size in SIDES:
        expected = {
            cls: gone
            for part in ("train", "test")
            for cls, names in lists[f"{part}_by_class"].items()
            if (gone := [n for n in names if int(cls) not in placed_mask(dataset.mask(n), size)])
        }
        found = vanished(made, dataset.mask, lists, size)
        assert {cls: sorted(names) for cls, names in found.items()} == {
            cls: sorted(names) for cls, names in expected.items()
        }
        assert bool(found) == (size <= 97)
    monkeypatch.setattr(pairs, "_CHUNK", 8)
    assert vanished(made, dataset.mask, lists, 33, workers=2) == vanished(made, dataset.mask, lists, 33)


def test_by_hand(tmp_path, capsys):
    made, dataset = thin_objects(tmp_path, 20)
    files = dict.fromkeys(made["sizes"], ("", ""))
    write_index(tmp_path / "index.parquet", {"source": "voc", "digest": "", "files": files, **made})
    command = ["data", "lists", "--index", str(tmp_path / "index.parquet"), "--out", str(tmp_path / "lists")]
    command += ["--min-area", "10"]
    cli.main([*command, "--size", "33", "--root", str(tmp_path), "--workers", "1"])
    lists = read_lists(tmp_path / "lists", 0)
    assert lists["vanished"] == vanished(made, dataset.mask, lists, 33) != {}
    assert (
        f"{sum(map(len, lists['vanished'].values()))} objects have no pixel at 33 px"
        in capsys.readouterr().out
    )
    cli.main(command)
    assert "vanished" not in read_lists(tmp_path / "lists", 0)
    with pytest.raises(SystemExit):
        cli.main([*command, "--size", "33"])
    assert "--size and --root: give both" in capsys.readouterr().err


@pytest.fixture(scope="module")
def lists():
    """Class 1 has 20 test images, of which four vanish; class 2 three, of which two do."""
    val = {f"v{i}": {"1": 200} for i in range(20)} | {f"w{i}": {"2": 200} for i in range(3)}
    made = rule(index({f"t{i}": {"6": 200} for i in range(9)}, val), 0)
    return made | {"vanished": {"1": ["v3", "v4", "v5", "v11"], "2": ["w0", "w1"], "6": ["t0", "t1", "t2"]}}


@pytest.mark.parametrize("protocol", episodes.PROTOCOLS)
@pytest.mark.parametrize("shots", [1, 5])
def test_a_support_that_vanishes_is_passed_over_and_nothing_else_changes(lists, protocol, shots):
    gone = {name for names in lists["vanished"].values() for name in names}
    before = episodes.evaluation_episodes(
        {**lists, "vanished": {"2": ["w0", "w1"]}}, 7, 300, shots, 1, protocol
    )
    after = episodes.evaluation_episodes(lists, 7, 300, shots, 1, protocol)
    assert after.classes == [1]  # of class 2 a single image is left
    assert {"class": 2, "name": "bicycle", "images": 1} in after.excluded
    passed_over = 0
    for old, new in zip(before.episodes, after.episodes, strict=True):
        assert (old.query, old.cls) == (new.query, new.cls)
        assert len(set(new.supports)) == shots and not {new.query, *gone} & set(new.supports) - {new.query}
        kept = [name for name in old.supports if name not in gone]
        assert list(new.supports[: len(kept)]) == kept
        passed_over += shots - len(kept)
    assert after.passed_over == passed_over > 0
    assert {e.query for e in after.episodes} & gone  # a query is not dropped
    assert episodes.evaluation_episodes(lists, 7, 30, shots, 1, protocol).episodes == (
        after.episodes if protocol == "full" else after.episodes[:30]
    )


def test_all_that_is_left_is_drawn_equally_often(lists):
    drawn = episodes.evaluation_episodes(lists, 0, 3200, 1, 1).episodes
    counts = {f"v{i}": sum(e.supports == (f"v{i}",) for e in drawn) for i in range(20)}
    left = [count for name, count in counts.items() if name not in lists["vanished"]["1"]]
    assert len(left) == 16 and min(left) > 140 and max(left) < 260  # 200 expected


def test_episodes_and_their_number_of_supports_passed_over_are_read_as_written(lists, tmp_path):
    for name, given in (("some", lists), ("none", {**lists, "vanished": {}})):
        made = episodes.evaluation_episodes(given, 7, 50, 2)
        episodes.save_episodes(tmp_path / f"{name}.json", made)
        assert episodes.load_episodes(tmp_path / f"{name}.json") == made
        assert ("passed_over" in json.loads((tmp_path / f"{name}.json").read_text())) == (name == "some")


def test_thresholds_are_chosen_with_supports_that_can_be_seen(lists):
    for episode in episodes.threshold_episodes(lists, 0, 60, 2):
        assert not set(lists["vanished"]["6"]) & set(episode.supports)
    assert any(
        set(lists["vanished"]["6"]) & set(episodes.train_episode(lists, 0, 0, i, 2).supports)
        for i in range(60)
    )


def test_lists_depend_on_the_size_where_images_are_reduced_to_it():
    def of(preset, size):
        return keys(planned(preset, data={"size": size}), "lists")

    assert of("tiny", 97) == of("tiny", 161)
    assert of("tiny", 97) != of("tiny", 89) != of("tiny", 81)
    assert of("pascal", 473) != of("pascal", 321)


# --- evaluation and report -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Inputs of an evaluation at 57 px; of the first query's object a single pixel is left, which 57 px lose."""
    made = prepare(tmp_path_factory.mktemp("prepared"), **SMALL)
    first = json.loads((made["episodes"] / "episodes.json").read_text())["episodes"][0]
    path = made["data"] / "VOC/SegmentationClassAug" / f"{first['query']}.png"
    mask = np.zeros_like(open_mask(path))
    seen = placed_mask(np.arange(mask.size, dtype=np.float32).reshape(mask.shape), 57)
    mask.flat[np.setdiff1d(np.arange(mask.size), seen.astype(int))[40]] = first["class"]
    Image.fromarray(mask).save(path)
    return made


def without(rows, query):
    """mIoU of the episodes with another query, and their number."""
    kept = [row for row in rows if row["query"] != query]
    counts = np.array([[int(row[name]) for name in segmentation.Counts._fields] for row in kept])
    labels = [int(row["class"]) for row in kept]
    return 100 * segmentation.score(sorted(set(labels)), labels, counts).miou, len(kept)


def test_queries_that_vanish_count_and_are_reported_apart(inputs, tmp_path):
    query = json.loads((inputs["episodes"] / "episodes.json").read_text())["episodes"][0]["query"]
    job = make_job(tmp_path, "baselines", inputs, **SMALL)
    baselines.run(job)
    scores = json.loads((job.out / "scores.json").read_text())["methods"]["foreground"]
    with (job.out / "episodes.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "foreground"]
    others, left = without(rows, query)
    assert scores["episodes"] == len(rows) == 12 and scores["vanished_queries"] == 12 - left > 0
    assert scores["miou"] == pytest.approx(without(rows, None)[0])
    assert scores["miou_without_vanished"] == pytest.approx(others) and others > scores["miou"] > 0


def test_a_networks_metrics_name_the_queries_that_vanish(inputs, tmp_path):
    job = make_job(tmp_path, "train", inputs, **SMALL)
    train.run(job)
    metrics = evaluate.run(make_job(tmp_path, "evaluate", {**inputs, "train": job.out}, **SMALL))
    assert metrics["vanished_queries"] > 0 and metrics["miou_without_vanished"] >= metrics["miou"]


def test_the_report_shows_both_numbers(tmp_path, monkeypatch):
    plain = fake_jobs.scores
    more = {"vanished_queries": 3, "miou_without_vanished": 61.25}
    monkeypatch.setattr(fake_jobs, "scores", lambda *given: plain(*given) | more)
    home = fake_jobs.report(tmp_path / "results")
    page = (home / "report.html").read_text()
    assert "Objects too thin to be seen" in page and "61.2" in page
    assert (pd.read_csv(home / "metrics.csv")["vanished_queries"] == 3).all()
    monkeypatch.setattr(fake_jobs, "scores", plain)
    page = (fake_jobs.report(tmp_path / "other") / "report.html").read_text()
    assert "too thin" not in page
