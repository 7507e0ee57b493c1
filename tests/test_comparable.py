"""Published numbers beside ours: what hides them, and which differences are named."""

import json
from pathlib import Path

import pytest

from i2r.config.load import load
from i2r.paper.comparable import departures, level, obstacles, other_images

PRESETS = Path(__file__).parents[1] / "workflow/presets"


def methods_of(preset):
    loaded = load(PRESETS / f"{preset}.yaml")
    return {name: (m.params.model_dump(mode="json"), m.reading) for name, m in loaded.methods.items()}


@pytest.fixture(scope="module")
def methods():
    return methods_of("pascal")


@pytest.fixture(scope="module")
def coco():
    return methods_of("coco")


def changed(sections, key, value):
    copy = json.loads(json.dumps(sections))
    *parts, last = key.split(".")
    place = copy
    for part in parts:
        place = place[part]
    assert place[last] != value, f"{key} already is {value}"
    place[last] = value
    return copy


@pytest.mark.parametrize("name", ["i2r", "bam"])
def test_the_rows_of_pascal_are_those_of_the_paper(methods, name):
    sections, reading = methods[name]
    assert obstacles(sections, reading) == [] and departures(sections, reading) == []


def test_bam_on_the_backbone_of_i2r_is_not_the_published_bam(methods):
    assert obstacles(*methods["bam-i2r-backbone"]) == ["the backbone is resnet50, not resnet50-bam"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.source", "shapes"),
        ("data.size", 417),
        ("backbone.name", "vgg16-bam"),
        ("backbone.name", "small"),
    ],
)
def test_other_data_backbone_or_size_hide_the_number(methods, key, value):
    sections, reading = methods["bam"]
    assert len(obstacles(changed(sections, key, value), reading)) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.novel", "keep"),
        ("data.folds", "interleaved"),
        ("data.draw", "large"),
        ("backbone.weights", "mine.pth"),
        ("base_learner.trains", "head"),
        ("base_learner.batch", 4),
        ("base_learner.list", "fold"),
        ("base_learner.size", 473),
        ("base_learner.checkpoint", "last"),
        ("base_learner.lr", 0.1),
        ("base_learner.weights", "mine.pth"),
        ("network.ensemble", False),
        ("train.lr", 0.01),
        ("train.precision", "bf16"),
        ("train.weights", "mine.pth"),
        ("evaluate.scoring", "original"),
        ("evaluate.tta", "released"),
        ("evaluate.episodes", 4000),
    ],
)
def test_every_other_difference_is_named(methods, key, value):
    sections, reading = methods["bam"]
    found = departures(changed(sections, key, value), reading)
    assert [text.split(":")[0] for text in found] == [key]


def test_a_backbone_of_101_layers_is_compared_with_its_own_numbers(methods):
    sections, reading = methods["bam"]
    assert obstacles(changed(sections, "backbone.name", "resnet101-bam"), reading) == []


@pytest.mark.parametrize("name", ["i2r", "bam"])
def test_the_rows_of_coco_are_those_of_the_paper(coco, name):
    sections, reading = coco[name]
    assert obstacles(sections, reading) == [] and departures(sections, reading) == []


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("data.source", "coco-crowds", "the data set is coco-crowds"),
        ("data.source", "fss1000", "the data set is fss1000"),
        ("data.size", 473, "images have 473 pixels a side, not 641"),
        ("backbone.name", "resnet50-bam", "the backbone is resnet50-bam, not resnet50"),
    ],
)
def test_other_data_backbone_or_size_hide_the_numbers_of_coco(coco, key, value, sentence):
    sections, reading = coco["i2r"]
    assert sentence in obstacles(changed(sections, key, value), reading)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("data.folds", "contiguous", "data.folds: contiguous, not interleaved"),
        ("train.steps", "300 epochs", "train.steps: 300 epochs, not 60 epochs"),
        ("network.ensemble", True, "network.ensemble: on, not off"),
        ("evaluate.tta", "none", "evaluate.tta: none, not released"),
    ],
)
def test_differences_from_the_setting_of_coco_are_named(coco, key, value, sentence):
    sections, reading = coco["i2r"]
    assert sentence in departures(changed(sections, key, value), reading)


def test_lists_are_the_published_ones_by_their_lengths():
    assert other_images("voc", {"train": 5953, "val": 1449}) == []
    assert other_images("voc", {"train": 1464, "val": 1449}) == [
        "1464 train images, not the 5953 of PASCAL-5i"
    ]
    assert other_images("coco", {"train": 82081, "val": 40137}) == []
    assert other_images("coco", {"train": 82081, "val": 90}) == ["90 val images, not the 40137 of COCO-20i"]


def test_a_result_is_retrained_if_it_is_trained_as_the_published_code_trains(methods, coco):
    levels = {name: level(sections) for name, (sections, _) in methods.items()}
    retrained = {name for name, found in levels.items() if found == "retrained"}
    assert retrained == {"bam", "bam-resnet101"}  # the others are in the paper's reading
    assert level(coco["i2r"][0]) == level(coco["bam"][0]) == "retrained"
    assert level(coco["i2r-ordered"][0]) == "reimplemented"
    assert {level(sections) for sections, _ in methods_of("shapes").values()} == {"reimplemented"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.source", "fss1000"),
        ("data.folds", "contiguous"),
        ("data.novel", "keep"),
        ("backbone.precision", "bf16"),
        ("base_learner.size", None),
        ("cam_head.mode", "untouched"),
        ("network.name", "hsnet"),
        ("network.prior", "ordered"),
        ("network.mask", "dicm"),
        ("network.cam", "gradcam"),
        ("train.lr", 0.01),
        ("train.sampling", "balanced"),
        ("train.augment.scale", [0.9, 1.1]),
    ],
)
def test_any_other_training_is_reimplemented(coco, key, value):
    assert level(changed(coco["i2r"][0], key, value)) == "reimplemented"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluate.scoring", "original"),
        ("evaluate.tta", "none"),
        ("evaluate.episodes", 4000),
        ("train.checkpoints", 9),
    ],
)
def test_the_evaluation_and_what_is_kept_do_not_decide_the_level(coco, key, value):
    assert level(changed(coco["i2r"][0], key, value)) == "retrained"


def test_weights_from_a_file_are_released_weights(methods, coco):
    for sections in (methods["i2r"][0], coco["i2r"][0]):
        assert level(changed(sections, "train.weights", "theirs.pth")) == "released weights"
