"""COCO: masks as pycocotools draws them, resumed and damaged drawings, and the small real subset."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_samples import write_coco
from PIL import Image
from pycocotools.coco import COCO

from i2r.data import coco
from i2r.data.content import known_digest
from i2r.data.lists import fold_lists
from i2r.data.sources import DataError, open_source


def by_pycocotools(file, crowds="unknown"):
    """Image -> mask from pycocotools' own annToMask, object over object."""
    api = COCO(str(file))
    masks = {}
    for number, image in api.imgs.items():
        labels = np.zeros((image["height"], image["width"]), np.uint8)
        for given in api.imgToAnns[number]:
            unknown = given["iscrowd"] and crowds == "unknown"
            cls = 255 if unknown else sorted(api.cats).index(given["category_id"]) + 1
            labels[api.annToMask(given) == 1] = cls
        if api.imgToAnns[number]:
            masks[Path(image["file_name"]).stem] = labels
    return masks


def index(root, source="coco", **options):
    return open_source(source).index(options, root, root)


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "coco")


@pytest.mark.parametrize(("source", "crowds"), [("coco", "unknown"), ("coco-crowds", "class")])
def test_masks_are_those_of_pycocotools(root, source, crowds):
    made = index(root, source)
    for split in ("train", "val"):
        expected = by_pycocotools(coco.annotation_file(root, split), crowds)
        assert made[split].keys() == expected.keys()
        for name, labels in expected.items():
            np.testing.assert_array_equal(open_source(source).mask(root, name), labels)
    values = [v for name in made["val"] for v in np.unique(open_source(source).mask(root, name))]
    assert (255 in values) == (crowds == "unknown")


def test_lists_are_by_image_id_or_those_of_a_file(root):
    numbers = [int(name[-12:]) for name in index(root)["train"]]
    assert numbers == sorted(numbers) and len(numbers) == 8  # the image without an annotation is left out
    (root / "mine.txt").write_text(
        "val2014/COCO_val2014_000000000103.jpg annotations/val2014/COCO_val2014_000000000103.png\n"
        "val2014/COCO_val2014_000000000101.jpg annotations/val2014/COCO_val2014_000000000101.png\n"
    )
    assert [name[-3:] for name in index(root, val_list="mine.txt")["val"]] == ["103", "101"]
    (root / "mine.txt").write_text("COCO_val2014_000000000999\n")
    with pytest.raises(DataError, match="1 images have no annotation: COCO_val2014_000000000999"):
        index(root, val_list="mine.txt")


def test_grey_images_have_three_channels(root):
    name = next(iter(index(root)["train"]))  # write_coco stores the first as grey
    assert coco.read_image(root, name).shape[2] == 3


def test_a_killed_drawing_goes_on_and_changed_masks_are_drawn_again(root):
    first = index(root)
    names = list(first["train"])
    masks = [root / coco.paths(name)[1] for name in names]
    before = [mask.stat().st_mtime_ns for mask in masks]
    (root / "masks/sha256.txt").unlink()  # as if killed
    masks[2].unlink()
    assert index(root) == first
    after = [mask.stat().st_mtime_ns for mask in masks]
    assert [number for number, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [2]
    shutil.copy(masks[0], masks[1])
    assert index(root) == first


def test_other_annotations_make_other_masks_and_another_digest(root):
    first = index(root)
    file = coco.annotation_file(root, "val")
    values = json.loads(file.read_text())
    values["annotations"][0]["category_id"] = 90
    file.write_text(json.dumps(values))
    second = index(root)
    assert second["digest"] != first["digest"]
    assert any("80" in pixels for pixels in second["val"].values())


def test_a_changed_mask_is_noticed_when_planning(root, tmp_path):
    made = index(root)

    def digest():
        return known_digest(tmp_path / "state", root, {"n": os.urandom(4).hex()}, lambda: source({}, root))

    source = open_source("coco").listing
    assert digest() == made["digest"]
    one, other = (root / coco.paths(name)[1] for name in list(made["train"])[:2])
    shutil.copy(one, other)
    with pytest.raises(
        ValueError, match=r"1 masks .* changed after they were drawn .*; `i2r data prepare coco"
    ):
        digest()


def test_planning_does_not_read_the_annotations_once_the_masks_are_drawn(root, monkeypatch):
    listing = open_source("coco").listing
    before = listing({}, root)
    index(root)
    monkeypatch.setattr(coco, "read_annotations", None)
    assert listing({}, root)._replace(derived={}) == before


def test_wrong_files_are_sentences(root):
    file = coco.annotation_file(root, "train")
    values = json.loads(file.read_text())
    image = root / "train2014" / values["images"][0]["file_name"]
    content = image.read_bytes()
    Image.new("RGB", (40, 31)).save(image)
    with pytest.raises(DataError, match=r"has 40 x 31 pixels, its annotation says 40 x 30"):
        index(root)
    image.write_bytes(content)
    values["images"][0]["height"] += 1
    file.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"annotation \d+ does not fit image COCO_train2014_000000000008.jpg"):
        index(root)
    file.write_text(json.dumps(values | {"categories": values["categories"][:-1]}))
    with pytest.raises(DataError, match="does not have COCO's 80 categories"):
        index(root)
    cut = {name: value for name, value in values["annotations"][0].items() if name != "segmentation"}
    for given in (cut, "text"):
        file.write_text(json.dumps(values | {"annotations": [given]}))
        with pytest.raises(DataError, match="not an instances file of COCO"):
            index(root)
    file.write_text("{")
    with pytest.raises(DataError, match="not an instances file of COCO"):
        index(root)
    file.unlink()
    with pytest.raises(
        DataError, match=r"instances_\w+\.json: no such file; .* must stand COCO's train2014/"
    ):
        index(root)


@pytest.fixture
def subset(tmp_path):
    given = Path(os.environ.get("I2R_DATA", "")) / "coco2014-subset"
    if not os.environ.get("I2R_DATA") or not given.is_dir():
        pytest.skip("I2R_DATA names no folder with coco2014-subset")
    for name in ("annotations", "train2014", "val2014"):
        (tmp_path / name).symlink_to(given / name)
    return tmp_path


def test_the_real_subset(subset):
    made = index(subset)
    assert (len(made["train"]), len(made["val"])) == (24, 66)
    for split in ("train", "val"):
        for name, labels in by_pycocotools(coco.annotation_file(subset, split)).items():
            np.testing.assert_array_equal(coco.read_mask(subset, name), labels)
    tests = [fold_lists(made, fold, min_area=1, folds="interleaved")["test_classes"] for fold in range(4)]
    assert [classes[:2] for classes in tests] == [[1, 5], [2, 6], [3, 7], [4, 8]]
