"""The embedded data set: properties of its images, and that they are reproducible."""

import hashlib

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from i2r.config import data_set as params
from i2r.data import voc
from i2r.data.lists import fold_lists
from i2r.data.shapes import generate as shapes
from i2r.data.shapes.silhouettes import CLASSES, GROUPS, outline


def make(folder, train=6, val=4, seed=0, lookalikes=0.0):
    how = params.Shapes(train_images=train, val_images=val, seed=seed, lookalikes=lookalikes)
    shapes.make_shapes(folder, how)
    return folder


def content(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_runs_write_the_same_bytes_and_another_seed_others(tmp_path):
    first, second = content(make(tmp_path / "a")), content(make(tmp_path / "b"))
    other = content(make(tmp_path / "c", seed=1))
    assert first == second
    assert all(first[name] != other[name] for name in first if name.endswith((".jpg", ".png")))


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    small, large = content(make(tmp_path / "a", 3, 2)), content(make(tmp_path / "b", 5, 3))
    assert all(large[name] == digest for name, digest in small.items() if name.endswith((".jpg", ".png")))


def test_it_is_written_in_the_layout_of_voc(tmp_path):
    root = make(tmp_path) / "VOC"
    index = voc.index_voc(root, "lists/train.txt", "lists/val.txt", classes=shapes.CLASSES)
    assert list(index["train"]) == [f"train_{i:06d}" for i in range(6)]
    assert list(index["val"]) == [f"val_{i:06d}" for i in range(4)]
    with Image.open(root / "SegmentationClassAug" / "train_000000.png") as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[3:6] == [128, 0, 0]  # VOC's colour of class 1


@pytest.fixture(scope="module")
def scenes():
    return [shapes.scene(np.random.default_rng((9, i)))[:2] for i in range(150)]


def groups_of(classes):
    """Class 1..20 -> the number of its group."""
    return {CLASSES.index(name) + 1: number for number, group in enumerate(classes) for name in group}


def test_images_without_lookalikes_are_those_from_before_they_existed():
    """sha256 of 40 masks, made by the generator before it knew look-alikes."""
    digest = hashlib.sha256()
    for i in range(40):
        digest.update(shapes.scene(np.random.default_rng((0, 1, i))).labels.tobytes())
    assert digest.hexdigest() == "b03af2c8603f941c1ae204ecec6b70695d7333bad24b6531de732c55f95d0e39"


def test_drawings_are_grey_images_of_the_same_scenes_with_the_same_masks(tmp_path):
    painted, drawn = (tmp_path / name for name in ("painted", "drawn"))
    for folder in (painted, drawn):
        shapes.make_shapes(folder, params.Shapes(train_images=2, val_images=2, drawn=folder == drawn))
    before, after = content(painted), content(drawn)
    same = {name for name in before if before[name] == after[name]}
    assert same == {name for name in before if not name.endswith(".jpg")}
    drawing = cv2.imread(str(drawn / "VOC/JPEGImages/val_000001.jpg"))
    assert np.abs(np.diff(drawing.astype(int), axis=2)).max() <= 2  # JPEG rounds colours
    assert 0.02 < (drawing[..., 0] < 100).mean() < 0.6  # ink


@pytest.mark.parametrize(("lookalikes", "low", "high"), [(0.0, 0.1, 0.25), (0.5, 0.4, 0.6), (1.0, 0.7, 0.9)])
def test_lookalikes_stand_in_as_many_images_as_asked(lookalikes, low, high):
    """Share of the classes of the images beside which another class of their group stands."""
    group, beside = groups_of(GROUPS), []
    for i in range(200):
        made = shapes.scene(np.random.default_rng((4, i)), lookalikes)
        present = {made_object.cls for made_object in made.objects}
        beside += [any(o != c and group[o] == group[c] for o in present) for c in present]
    assert low < np.mean(beside) < high


def test_each_class_looks_like_one_of_its_group():
    """By Mahalanobis distances between the mean silhouettes: those that a linear classifier tells least apart."""
    drawn = np.array(
        [[silhouette(np.random.default_rng((cls, i)), cls) for i in range(200)] for cls in range(1, 21)]
    )  # (20, 200, 256)
    means = drawn.mean(axis=1)
    within = (drawn - means[:, None]).reshape(-1, 256)
    inverse = np.linalg.inv(within.T @ within / len(within) + 0.02 * np.eye(256))
    gaps = means[:, None] - means[None]  # (20, 20, 256)
    distance = np.einsum("abi,ij,abj->ab", gaps, inverse, gaps)
    group = groups_of(GROUPS)
    assert sorted(group) == list(range(1, 21))
    for cls in range(1, 21):
        nearest = 1 + np.argsort(distance[cls - 1])[1:4]
        assert any(group[int(other)] == group[cls] for other in nearest), CLASSES[cls - 1]


def silhouette(rng, cls):
    """An outline as grey levels 0..1 on a grid of 16 x 16 that it fills, flat."""
    canvas = np.zeros((128, 128), np.uint8)
    for points, filled in outline(rng, cls):
        pixels = np.round(((points + 1) * 64 - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [pixels], 255 if filled else 0, shift=4)
    return cv2.resize(canvas, (16, 16), interpolation=cv2.INTER_AREA).ravel() / 255


def test_the_table_of_objects_says_how_much_of_each_is_covered(tmp_path):
    table = pd.read_csv(make(tmp_path, train=40) / "objects.csv")
    assert table["image"].nunique() == 44
    assert (table["visible"] <= table["pixels"]).all()
    assert 0.05 < (table["visible"] < 0.95 * table["pixels"]).mean() < 0.5
    for (image, cls), rows in table.groupby(["image", "class"]):
        labels = voc.read_mask(tmp_path / "VOC", image)
        lost = rows["visible"].sum() - (labels == cls).sum()  # to the unknown pixels around what covers it
        assert 0 <= lost <= 0.4 * rows["pixels"].sum()


def test_scenes_hold_two_to_four_classes_with_borders_and_about_nine_percent_each(scenes):
    shares = []
    for image, labels in scenes:
        assert image.dtype == labels.dtype == np.uint8
        assert image.shape == (*labels.shape, 3)
        assert max(labels.shape) == shapes.SIDE
        assert min(labels.shape) >= shapes.SHORT_SIDE[0]
        classes = set(np.unique(labels)) - {0, 255}
        assert 1 <= len(classes) <= 4  # one may be hidden
        assert classes <= set(range(1, 21))
        assert (labels == 255).any()
        shares += [(labels == cls).mean() for cls in classes]
    assert 0.07 < np.mean(shares) < 0.12


def test_classes_and_background_meet_only_across_unknown_pixels(scenes):
    for _, labels in scenes[:40]:
        for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            assert not ((one != other) & (one != 255) & (other != 255)).any()


def test_colour_does_not_tell_the_class(scenes):
    """An object's mean colour hardly depends on its class: a nearest-mean classifier is close to chance."""
    colours, classes = [], []
    for image, labels in scenes:
        for cls in set(np.unique(labels)) - {0, 255}:
            colours.append(image[labels == cls].mean(axis=0))
            classes.append(cls)
    colours, classes = np.array(colours), np.array(classes)
    half = len(classes) // 2
    means = np.stack([colours[:half][classes[:half] == cls].mean(axis=0) for cls in range(1, 21)])
    guess = 1 + ((colours[half:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (guess == classes[half:]).mean() < 0.15  # chance: 0.05


@pytest.mark.parametrize("lookalikes", [0.0, 0.5])
def test_every_fold_keeps_enough_training_images(lookalikes):
    pixels = {}
    for i in range(300):
        labels = shapes.scene(np.random.default_rng((0, 0, i)), lookalikes).labels
        counts = np.bincount(labels.ravel(), minlength=256)
        pixels[str(i)] = {str(cls): int(counts[cls]) for cls in range(1, 21) if counts[cls]}
    index = {"classes": list(CLASSES), "train": pixels, "val": pixels}
    for fold in range(4):
        lists = fold_lists(index, fold, min_area=100)
        assert len(lists["train"]) >= 0.35 * len(pixels)
        assert min(map(len, lists["test_by_class"].values())) >= 5
        assert min(map(len, lists["train_by_class"].values())) >= 5


@pytest.mark.parametrize("cls", range(1, 21))
def test_outlines_vary_in_structure_and_fill_their_box(cls):
    drawn = [outline(np.random.default_rng((cls, i)), cls) for i in range(8)]
    for parts in drawn:
        solid = np.concatenate([points for points, filled in parts if filled])
        assert np.abs(solid).max() == pytest.approx(1)
        assert np.allclose(solid.min(axis=0), -solid.max(axis=0))
    assert len({tuple(np.round(parts[0][0], 3).ravel()) for parts in drawn}) == 8


def test_single_objects_show_one_class(scenes):
    for cls in range(1, 21):
        image, labels = shapes.single_object(np.random.default_rng((1, cls)), cls, 64)
        assert image.shape == (64, 64, 3)
        assert set(np.unique(labels)) == {0, cls, 255}
    with pytest.raises(ValueError, match=r"class must be 1\.\.20, got 21"):
        shapes.single_object(np.random.default_rng(0), 21, 64)
    with pytest.raises(ValueError, match="side"):
        shapes.single_object(np.random.default_rng(0), 1, 8)
