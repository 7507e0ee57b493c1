"""Reading VOC folders: accepted files, error messages, and counts on real photographs."""

import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from i2r.data import dataset, voc
from i2r.data.episodes import evaluation_episodes
from i2r.data.lists import fold_lists
from i2r.steps import data as data_step


def write(root, name, mask, mode="P", size=None):
    for folder in ("JPEGImages", "SegmentationClassAug", "lists"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    height, width = size or mask.shape
    image = np.full((height, width, 3), (200, 30, 10), np.uint8)
    Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    coded = Image.fromarray(mask, mode="L")
    if mode == "P":
        coded.putpalette([c for i in range(256) for c in (255 - i, i // 2, 7)])
    coded.convert(mode).save(root / "SegmentationClassAug" / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 5:15] = 3
    mask[4, 5:15] = 255
    write(tmp_path, "2007_000001", mask)
    write(tmp_path, "2007_000002", (mask.T == 3).astype(np.uint8), mode="L")
    (tmp_path / "lists/train.txt").write_text("2007_000001\n\n")
    (tmp_path / "lists/val.txt").write_text("2007_000002\n")
    return tmp_path


def read(root):
    return voc.index_voc(root, "lists/train.txt", "lists/val.txt")


def test_index_counts_pixels_of_palette_and_grey_masks(root):
    write(root, "2007_000002", np.eye(12, 20, dtype=np.uint8), mode="L")
    index = read(root)
    assert index["train"] == {"2007_000001": {"3": 50}}
    assert index["val"] == {"2007_000002": {"1": 12}}
    assert index["sizes"] == {"2007_000001": [20, 30], "2007_000002": [12, 20]}
    assert index["classes"][0] == "aeroplane"
    assert len(index["classes"]) == 20


def test_images_are_rgb_and_masks_class_ids(root):
    image, mask = voc.read_image(root, "2007_000001"), voc.read_mask(root, "2007_000001")
    assert image.shape == (20, 30, 3)
    assert np.abs(image.astype(int).mean(axis=(0, 1)) - (200, 30, 10)).max() < 4
    assert sorted(np.unique(mask)) == [0, 3, 255]


def test_the_camera_orientation_tag_turns_no_image(root):
    path = root / "JPEGImages/2007_000001.jpg"
    with Image.open(path) as opened:
        exif = opened.getexif()
        exif[0x0112] = 6
        opened.save(path, exif=exif)
    assert voc.read_image(root, "2007_000001").shape == (20, 30, 3)
    assert cv2.imread(str(path)).shape == (30, 20, 3)


def test_lists_of_bam_pfenet_and_hsnet_users(root):
    line = "VOC2012/JPEGImages/2007_000001.jpg VOC2012/SegmentationClassAug/2007_000001.png\n"
    (root / "lists/train.txt").write_text(line)
    assert list(read(root)["train"]) == ["2007_000001"]
    (root / "lists/train.txt").write_text("JPEGImages/a.jpg SegmentationClass/a.png\n")
    with pytest.raises(
        voc.DataError, match=r"train.txt:1: expected ID, .* or JPEGImages/ID.jpg SegmentationClassAug/ID"
    ):
        read(root)
    (root / "lists/train.txt").write_text("a b c\n")
    with pytest.raises(voc.DataError, match="with one ID, got 'a b c'"):
        read(root)
    (root / "lists/train.txt").write_text("2007_000001\n2007_000001\n")
    with pytest.raises(voc.DataError, match=r"train.txt:2: 2007_000001 is in the list twice"):
        read(root)
    (root / "lists/train.txt").write_text("\n")
    with pytest.raises(voc.DataError, match="the list is empty"):
        read(root)
    (root / "lists/train.txt").unlink()
    with pytest.raises(voc.DataError, match=r"train.txt: no such list file"):
        read(root)


@pytest.mark.parametrize("missing", ["JPEGImages/2007_000001.jpg", "SegmentationClassAug/2007_000001.png"])
def test_a_missing_file_is_named(root, missing):
    (root / missing).unlink()
    with pytest.raises(voc.DataError, match=f"{missing}: no such file, but it is in a list"):
        read(root)


def test_wrong_files_are_named(root):
    path = root / "SegmentationClassAug/2007_000001.png"
    write(root, "2007_000001", np.zeros((20, 30), np.uint8), size=(20, 31))
    with pytest.raises(voc.DataError, match=r"000001.png: the mask has 30 x 20 pixels, its image 31 x 20"):
        read(root)
    write(root, "2007_000001", np.full((20, 30), 21, np.uint8))
    with pytest.raises(voc.DataError, match=r"000001.png: values \[21\] are neither 0..20 nor 255"):
        read(root)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    with pytest.raises(voc.DataError, match=r"000001.png: a mask must be a palette or grey PNG"):
        read(root)
    path.write_bytes(b"nothing")
    with pytest.raises(voc.DataError, match=r"000001.png: not an image"):
        read(root)
    (root / "JPEGImages/2007_000001.jpg").write_bytes(b"nothing")
    with pytest.raises(voc.DataError, match=r"000001.jpg: cannot be read as an image"):
        voc.read_image(root, "2007_000001")


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(voc.DataError, match=r"no such folder; `data\.root` or `--root` must name"):
        read(tmp_path / "none")
    with pytest.raises(voc.DataError, match="JPEGImages: no such folder"):
        read(tmp_path)
    with pytest.raises(voc.DataError, match=r"no such folder; `data\.root` or `--root` must name"):
        dataset.open_dataset(tmp_path)


def job(out, data, root=None):
    out.mkdir()
    more = {"state": out.parent / f"{out.name}-state", "threads": 1, "runtime": SimpleNamespace(workers=0)}
    return SimpleNamespace(params={"data": data}, out=out, data_root=root, **more)


def test_the_step_checks_the_digest_and_the_data_set_opens(root, tmp_path):
    data = {"source": "voc", "train_list": "lists/train.txt", "val_list": "lists/val.txt"}
    metrics = data_step.run(job(tmp_path / "a", data, root))
    opened = dataset.open_dataset(tmp_path / "a", root)
    assert opened.index["digest"] == metrics["digest"]
    assert opened.image("2007_000001").shape == (20, 30, 3)
    assert opened.mask("2007_000002").shape == (30, 20)
    assert opened.classes[19] == "tvmonitor"
    data_step.run(job(tmp_path / "b", data | {"digest": metrics["digest"]}, root))
    mask = voc.read_mask(root, "2007_000001")
    mask[0, 0] = 3  # one changed pixel makes another data set
    write(root, "2007_000001", mask)
    with pytest.raises(
        voc.DataError,
        match=r"data\.digest: .* has lists, images and masks with the digest .*, but the params have",
    ):
        data_step.run(job(tmp_path / "c", data | {"digest": metrics["digest"]}, root))


def test_the_step_generates_shapes(tmp_path):
    shapes = {"train_images": 5, "val_images": 3, "seed": 0}
    metrics = data_step.run(job(tmp_path / "a", {"source": "shapes", "shapes": shapes}))
    assert (metrics["train_images"], metrics["val_images"]) == (5, 3)
    opened = dataset.open_dataset(tmp_path / "a")
    assert opened.classes[:2] == ["star", "gear"]
    assert opened.image("train_000004").shape[:2] == opened.mask("train_000004").shape


@pytest.fixture(scope="module")
def photographs():
    folder = os.environ.get("I2R_DATA")
    if not folder:
        pytest.skip("I2R_DATA names no folder with voc2012-animals and voc2012-subset")
    return Path(folder)


def test_animals_are_those_of_vocs_validation(photographs):
    """Counts of the published validation lists (docs/method.md 9) for the five complete classes."""
    index = voc.index_voc(photographs / "voc2012-animals", "lists/train.txt", "lists/val.txt")
    assert (len(index["train"]), len(index["val"])) == (1238, 434)
    area = round(2048 * 0.64**2)  # of the reduced images
    tests = [fold_lists(index, fold, min_area=area)["test_by_class"] for fold in range(4)]
    counts = {int(cls): len(images) for by_class in tests for cls, images in by_class.items()}
    assert {cls: counts[cls] for cls in (8, 10, 12, 13, 17)} == {8: 118, 10: 69, 12: 125, 13: 76, 17: 53}
    scarce = evaluation_episodes(fold_lists(index, 0, min_area=area), 0, 10, 1, min_class_images=6).excluded
    assert [item["name"] for item in scarce] == ["aeroplane", "bicycle", "bird", "boat", "bottle"]


def test_subset_has_the_counts_of_bams_filter(photographs):
    index = voc.index_voc(photographs / "voc2012-subset", "lists/train.txt", "lists/val.txt")
    assert (len(index["train"]), len(index["val"])) == (125, 123)
    tests = [fold_lists(index, fold, min_area=2048)["test_by_class"] for fold in range(4)]
    counts = {int(cls): len(images) for by_class in tests for cls, images in by_class.items()}
    assert [counts.get(cls, 0) for cls in range(1, 21)] == [
        *(3, 5, 1, 2, 9), *(4, 8, 17, 16, 16), *(7, 21, 16, 3, 34), *(7, 16, 16, 4, 7)
    ]  # fmt: skip
