"""Fold lists by BAM's rule, and episodes drawn from them."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest

from i2r.config.data_set import SOURCES, SourceEntry
from i2r.data import episodes, lists
from i2r.data.episodes import Episode, train_episode
from i2r.data.index_table import write_index
from i2r.data.sources import open_source
from i2r.data.voc import VOC_CLASSES
from i2r.files import read_json
from i2r.steps import episodes as episodes_step
from i2r.steps import lists as lists_step


def index(train, val):
    return {"classes": list(VOC_CLASSES), "train": train, "val": val, "sizes": {}, "digest": ""}


def rule(data, fold, **changes):
    return lists.fold_lists(data, fold, **{"min_area": 100, **changes})


# fold 0 tests classes 1..5
SMALL = index(
    train={
        "large": {"6": 100},
        "just too small": {"6": 99},
        "two, one of them small": {"7": 500, "20": 3},
        "a speck of a test class": {"8": 5000, "1": 1},
        "test class only": {"2": 5000},
        "empty": {},
    },
    val={
        "test class": {"1": 100},
        "with a training class": {"5": 400, "6": 9000},
        "two test classes": {"1": 300, "2": 200, "3": 99},
        "small": {"1": 99},
        "training class": {"6": 9000},
    },
)


def test_folds_of_pascal_and_coco():
    assert lists.fold_classes(0) == (list(range(6, 21)), [1, 2, 3, 4, 5])
    assert lists.fold_classes(3)[1] == [16, 17, 18, 19, 20]
    assert lists.fold_classes(1, 80)[1] == list(range(21, 41))
    for fold in range(4):
        train, test = lists.fold_classes(fold, 80, "interleaved")
        assert len(test) == 20 and test[:3] == [fold + 1, fold + 5, fold + 9] and test[-1] == 77 + fold
        assert sorted(train + test) == list(range(1, 81))
    with pytest.raises(ValueError, match=r"fold must be 0\.\.3"):
        lists.fold_classes(4)
    with pytest.raises(ValueError, match=r"data\.folds must be contiguous or interleaved"):
        lists.fold_classes(0, 80, "random")


def test_any_number_of_folds_divides_the_classes_in_both_ways():
    assert [lists.fold_classes(f, 10, number=5)[1] for f in range(5)] == [
        [1, 2],
        [3, 4],
        [5, 6],
        [7, 8],
        [9, 10],
    ]
    assert lists.fold_classes(1, 6, "interleaved", 3) == ([1, 3, 4, 6], [2, 5])
    with pytest.raises(ValueError, match=r"fold must be 0\.\.2 and classes a multiple of 3, got 3 and 6"):
        lists.fold_classes(3, 6, number=3)


def test_with_lists_the_classes_of_a_fold_are_those_that_each_list_shows():
    images = index({"a": {"2": 500}, "b": {"9": 500}, "c": {"2": 700}}, {"d": {"5": 500}, "e": {"5": 50}})
    made = rule(images, 0, folds="lists", number=1)
    assert (made["train_classes"], made["test_classes"]) == ([2, 9], [5])
    assert made["train"] == ["a", "b", "c"] and made["test_by_class"] == {"5": ["d"]}


def test_training_drops_images_with_a_pixel_of_a_test_class():
    made = rule(SMALL, 0)
    assert made["train"] == ["large", "two, one of them small"]
    assert made["train_of"]["two, one of them small"] == [7]
    assert made["train_by_class"]["6"] == ["large"]
    assert made["train_by_class"]["20"] == []
    assert rule(SMALL, 0, novel="keep")["train"] == [*made["train"], "a speck of a test class"]


@pytest.mark.parametrize(
    ("folds", "trained", "tested"),
    [
        ("contiguous", ["v21", "v80"], ["v1", "v5", "v20"]),
        ("interleaved", ["v20", "v80"], ["v1", "v5", "v21"]),
    ],
)
def test_lists_of_80_classes_in_both_kinds_of_folds(folds, trained, tested):
    shown = {f"v{cls}": {str(cls): 900} for cls in (1, 5, 20, 21, 80)}
    coco = {"classes": [f"class {cls}" for cls in range(1, 81)], "train": shown, "val": shown}
    made = rule(coco, 0, folds=folds)
    assert (made["train"], made["test"]) == (trained, tested)
    assert made["protocol"]["folds"] == folds


def test_the_class_is_drawn_among_all_in_the_image_or_among_the_large_ones():
    """Supports come from the class's list in both cases, which has large objects only."""
    large, present = (rule(SMALL, 0, draw=draw) for draw in ("large", "present"))
    assert large["train_of"]["two, one of them small"] == [7]
    assert present["train_of"]["two, one of them small"] == [7, 20]
    assert large["test_of"]["two test classes"] == [1, 2]
    assert present["test_of"]["two test classes"] == [1, 2, 3]
    assert present["test_of"]["with a training class"] == [5]
    for name in ("train", "test", "train_by_class", "test_by_class"):
        assert large[name] == present[name]
    assert (large["protocol"]["draw"], present["protocol"]["draw"]) == ("large", "present")
    with pytest.raises(ValueError, match=r"data\.draw must be present or large"):
        rule(SMALL, 0, draw="all")


@pytest.mark.parametrize("draw", ["large", "present"])
def test_training_and_test_episodes_of_a_small_object(draw):
    both = {"6": 500, "7": 1}
    train = {f"six {i}": {"6": 500} for i in range(3)} | {f"seven {i}": {"7": 500} for i in range(3)}
    val = {f"one {i}": {"1": 500} for i in range(3)} | {f"two {i}": {"2": 500} for i in range(3)}
    made = rule(index({"both": both, **train}, {"both, val": {"1": 500, "2": 1}, **val}), 0, draw=draw)
    found = {6: 0, 7: 0, 1: 0, 2: 0}
    trained = [train_episode(made, 0, 0, i, 1) for i in range(7 * 60)]
    for episode in (*trained, *episodes.evaluation_episodes(made, 0, 7 * 60, 1).episodes):
        if episode.query.startswith("both"):
            found[episode.cls] += 1
        large = made["train_by_class"] | made["test_by_class"]
        assert episode.supports[0] in large[str(episode.cls)]
        assert episode.supports[0] != episode.query
    assert found[6] + found[7] == found[1] + found[2] == 60
    if draw == "large":
        assert found[7] == found[2] == 0
    else:  # both classes equally often
        assert abs(found[7] - 30) < 16 and abs(found[2] - 30) < 16


def test_validation_keeps_images_with_enough_of_a_test_class():
    made = rule(SMALL, 0)
    assert made["test"] == ["test class", "with a training class", "two test classes"]
    assert made["test_by_class"]["1"] == ["test class", "two test classes"]
    assert made["test_of"]["two test classes"] == [1, 2]


def test_scarce_test_classes_are_named_and_stand_in_no_episode():
    lists_of = rule(SMALL, 0)
    made = episodes.evaluation_episodes(lists_of, 0, 20, 1, min_class_images=2)
    assert made.classes == [1]
    assert {e.query for e in made.episodes} == {"test class", "two test classes"}
    assert {e.cls for e in made.episodes} == {1}
    assert [(item["name"], item["images"]) for item in made.excluded] == [
        ("bicycle", 1), ("bird", 0), ("boat", 0), ("bottle", 1),
    ]  # fmt: skip
    assert "bicycle (1), bird (0)" in episodes.describe_excluded(made)
    assert episodes.evaluation_episodes(lists_of, 0, 20, 1) == made, "a query needs one image more than shots"
    none = episodes.evaluation_episodes(rule(SMALL, 1), 0, 100, 1, min_class_images=5)
    assert none.episodes == none.classes == []
    assert "fold 1 has no test class" in episodes.describe_excluded(none)


def test_more_shots_leave_out_more_classes(made):
    """Class 1 has six test images, class 2 two: enough for one shot, but not for five."""
    scored = {shots: episodes.evaluation_episodes(made, 0, 12, shots, 2).classes for shots in (1, 2, 5, 6)}
    assert scored == {1: [1, 2], 2: [1], 5: [1], 6: []}
    for episode in episodes.evaluation_episodes(made, 0, 12, 5, 2).episodes:
        assert len({episode.query, *episode.supports}) == 6


@pytest.fixture(scope="module")
def made():
    """Class 6 is common, 7 has 3 images, 8 one; test class 1 has 6 images, class 2 two."""
    train = {f"t{i}": {"6": 200, **({"7": 200} if i < 3 else {})} for i in range(40)} | {"lone": {"8": 200}}
    val = {f"v{i}": {"1": 200, **({"2": 200} if i < 2 else {})} for i in range(6)}
    return rule(index(train, val), 0)


def test_training_episodes_depend_on_their_number_alone(made):
    numbers = [5, 0, 77, 5, 12]
    one = [train_episode(made, 3, 0, i, 2) for i in numbers]
    assert one == [train_episode(made, 3, 0, i, 2) for i in numbers]
    assert one[0] == one[3]
    assert one != [train_episode(made, 4, 0, i, 2) for i in numbers]
    assert one != [train_episode(made, 3, 1, i, 2) for i in numbers]


@pytest.mark.parametrize("sampling", ["image", "balanced"])
def test_supports_show_the_class_and_are_others_than_the_query(made, sampling):
    for i in range(200):
        episode = train_episode(made, 0, 0, i, 2, sampling)
        images = (episode.query, *episode.supports)
        assert len(set(images)) == 3
        assert all(episode.cls in made["train_of"][name] for name in images)


def test_sampling_by_image_passes_every_query_once_an_epoch(made):
    epochs = [[train_episode(made, 0, 0, e * 41 + i, 1).query for i in range(41)] for e in range(2)]
    for queries in epochs:  # the image whose only class has no other image is skipped
        assert set(queries) == {f"t{i}" for i in range(40)}
        assert max(Counter(queries).values()) <= 2
    assert epochs[0] != epochs[1]


def test_balanced_sampling_draws_classes_equally_often(made):
    counts = Counter(train_episode(made, 0, 0, i, 1, "balanced").cls for i in range(600))
    assert set(counts) == {6, 7}
    assert abs(counts[6] - 300) < 4 * math.sqrt(150)
    assert Counter(train_episode(made, 0, 0, i, 1, "image").cls for i in range(600))[7] < 60


def test_too_few_images_for_the_shots_is_an_error(made):
    with pytest.raises(ValueError, match="no training class has more than 40 images"):
        train_episode(made, 0, 0, 0, 40)
    with pytest.raises(ValueError, match="sampling"):
        train_episode(made, 0, 0, 0, 1, "often")


def test_test_episodes_walk_the_list_in_order(made):
    drawn = episodes.evaluation_episodes(made, 0, 14, 1).episodes
    assert [e.query for e in drawn] == [f"v{i % 6}" for i in range(14)]
    assert drawn[:5] == episodes.evaluation_episodes(made, 0, 5, 1).episodes
    assert drawn != episodes.evaluation_episodes(made, 1, 14, 1).episodes
    for e in drawn:
        assert e.cls in made["test_of"][e.query]
        assert e.supports[0] in made["test_by_class"][str(e.cls)]
        assert e.query not in e.supports


def test_threshold_episodes_use_training_classes_and_images_only(made):
    for e in episodes.threshold_episodes(made, 0, 20, 1):
        assert e.cls in made["train_classes"]
        assert {e.query, *e.supports} <= set(made["train"])


def whole(source):
    """SMALL with everything that an index has."""
    names = [*SMALL["train"], *SMALL["val"]]
    return SMALL | {
        "source": source,
        "sizes": {n: [9, 9] for n in names},
        "files": {n: ["", ""] for n in names},
    }


def test_the_steps_write_lists_and_episodes(tmp_path, capsys):
    folders = {name: tmp_path / name for name in ("data", "lists", "episodes")}
    write_index(folders["data"] / "index.parquet", whole("voc"))
    data = {"novel": "drop", "min_area": 100, "draw": "present", "folds": "contiguous"}
    protocol = dict(data)
    job = {"args": {"fold": 0}, "params": {"data": data}, "inputs": folders, "out": folders["lists"]}
    assert lists_step.run(SimpleNamespace(**job)) == {"train_images": 2, "test_images": 3}
    assert read_json(folders["lists"] / "lists.json")["test_classes"] == [1, 2, 3, 4, 5]

    args = {"fold": 0, "shot": 1, "eval_seed": 3}
    sections = {"data": {"min_class_images": 2}, "evaluate": {"episodes": 3}}
    job = {"args": args, "params": sections, "inputs": folders, "out": folders["episodes"]}
    excluded = ["bicycle", "bird", "boat", "bottle"]
    metrics = episodes_step.run(SimpleNamespace(**job))
    assert metrics == {"episodes": 3, "queries": {"1": 3}, "excluded": excluded}
    assert "left out for too few test images: bicycle (1)" in capsys.readouterr().out
    saved = episodes.load_episodes(folders["episodes"] / "episodes.json")
    listed = read_json(folders["lists"] / "lists.json")
    assert saved == episodes.evaluation_episodes(listed, 3, 3, 1, 2)
    assert saved.protocol == read_json(folders["episodes"] / "episodes.json")["protocol"] == protocol
    assert saved.episodes[0] == Episode("test class", ("two test classes",), 1)
    assert saved.classes == [1] and [item["name"] for item in saved.excluded] == excluded

    data["min_area"] = 10**6
    job = {"args": {"fold": 0}, "params": {"data": data}, "inputs": folders, "out": folders["lists"]}
    with pytest.raises(ValueError, match="min_area 1000000 leave no training image"):
        lists_step.run(SimpleNamespace(**job))


@pytest.mark.parametrize(("given", "tested"), [(None, [1, 5, 9, 13, 17]), ("contiguous", [1, 2, 3, 4, 5])])
def test_without_folds_those_of_the_data_source_are_taken(tmp_path, monkeypatch, given, tested):
    source = SimpleNamespace(folds="interleaved")
    monkeypatch.setattr(lists_step, "open_source", {"other": source}.__getitem__)
    monkeypatch.setitem(SOURCES, "other", SourceEntry("somewhere:SOURCE"))
    write_index(tmp_path / "index.parquet", whole("other"))
    data = {"novel": "keep", "min_area": 1, "draw": "large", "folds": given}
    job = {"args": {"fold": 0}, "params": {"data": data}, "inputs": {"data": tmp_path}, "out": tmp_path}
    lists_step.run(SimpleNamespace(**job))
    made = read_json(tmp_path / "lists.json")
    assert made["test_classes"] == tested
    assert made["protocol"]["folds"] == (given or "interleaved")


def test_the_registered_sources_have_contiguous_folds():
    """PASCAL-5i, and the generated data set that is divided like it."""
    assert {open_source(name).folds for name in ("voc", "shapes")} == {"contiguous"}


@pytest.mark.parametrize("protocol", episodes.PROTOCOLS)
def test_protocols(protocol):
    val = {f"one {i}": {"1": 500, "2": 500} for i in range(4)} | {f"two {i}": {"2": 500} for i in range(8)}
    made = rule(index({"six": {"6": 500}}, val), 0, draw="present")
    short, long = (episodes.evaluation_episodes(made, 7, n, 2, protocol=protocol) for n in (30, 60))
    assert long.protocol.get("episodes", "bam") == protocol
    for episode in long.episodes:
        assert episode.query not in episode.supports and len(set(episode.supports)) == 2
        assert {episode.query, *episode.supports} <= set(made["test_by_class"][str(episode.cls)])
    queries = [episode.query for episode in long.episodes]
    found = [sum(e.cls == cls for e in long.episodes) for cls in (1, 2)]
    if protocol == "full":
        assert queries == list(val)
        return
    assert len(short.episodes) == 30 and long.episodes[:30] == short.episodes
    expected = episodes.expected_queries(made, 60, 2, protocol=protocol)
    assert sum(expected.values()) == pytest.approx(60)
    if protocol == "bam":
        assert queries[:12] == list(val) and expected == {1: 10, 2: 50}
    elif protocol == "balanced":
        assert found == [30, 30] and {queries.count(name) for name in val if name[0] == "t"} <= {2, 3}
    else:
        assert abs(found[0] - 30) < 16 and expected == {1: 30, 2: 30}


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match=r"evaluate\.protocol must be one of bam, hsnet"):
        episodes.evaluation_episodes(rule(SMALL, 0), 0, 1, 1, protocol="all")
