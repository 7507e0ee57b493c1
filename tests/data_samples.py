"""Small data sets in the official layouts, made of random images."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from i2r.data.coco import COCO_CLASSES

# COCO's category ids leave out ten numbers of 1..90
COCO_IDS = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def write_voc(folder):
    """Eight training and six validation images of 30 x 40 pixels, each with two classes and unknown pixels."""
    rng = np.random.default_rng(0)
    for name in ("JPEGImages", "SegmentationClassAug", "lists"):
        (folder / name).mkdir(parents=True)
    for split, count in (("train", 8), ("val", 6)):
        names = [f"{split}{number}" for number in range(count)]
        for number, name in enumerate(names):
            image = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.jpg")
            mask = np.zeros((30, 40), np.uint8)
            mask[:15, :20], mask[15:, :20], mask[:, 39] = 1 + number, 20 - number, 255
            Image.fromarray(mask).save(folder / "SegmentationClassAug" / f"{name}.png")
        (folder / "lists" / f"{split}.txt").write_text("\n".join(names))
    return folder


def write_coco(folder):
    """Eight training and six validation images of 30 x 40 pixels, and one without an annotation in each split.

    Objects are polygons (one of two parts), crowds run lengths, plain and compressed; the first image is grey.
    """
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": n, "name": name} for n, name in zip(COCO_IDS, COCO_CLASSES, strict=True)]
    for split, count, start in (("train", 9, 8), ("val", 7, 106)):
        (folder / f"{split}2014").mkdir()
        images, annotations = [], []
        for place in range(count):
            number = start - place  # the file is not in the order of ids
            file = f"COCO_{split}2014_{number:012d}.jpg"
            image = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
            image = image.convert("L") if (split, number) == ("train", 0) else image
            image.save(folder / f"{split}2014" / file)
            images.append({"id": number, "file_name": file, "height": 30, "width": 40})
            if place == 4:
                continue
            for given in _objects(rng):
                annotations.append({"id": len(annotations) + 1, "image_id": number, **given})
        rng.shuffle(annotations)
        values = {"images": images, "annotations": annotations, "categories": categories[::-1]}
        (folder / f"annotations/instances_{split}2014.json").write_text(json.dumps(values))
    return folder


def write_fss(folder, train=24, test=12, unlisted=264, images=10, side=24):
    """Classes with `images` black-and-white masks each, in the forms that PNG has for them, and lists in splits/.

    The names of the listed classes sort last, so that their numbers do not fit into a byte; the other classes have one
    image each.
    """
    rng = np.random.default_rng(0)
    names = {
        "other": [f"a_{number:04d}" for number in range(unlisted)],
        "trn": [f"b_train_{number:04d}" for number in range(train)],
        "test": [f"c_test_{number:04d}" for number in range(test)],
    }
    for split, classes in names.items():
        for cls in classes:
            (folder / cls).mkdir(parents=True)
            for number in range(1, 2 if split == "other" else images + 1):
                mask = np.zeros((side, side), np.uint8)
                top, left = rng.integers(0, side // 2, 2)
                mask[top : top + side // 2, left : left + side // 2] = 1
                image = rng.integers(0, 120, (side, side, 3), dtype=np.uint8) + 130 * mask[..., None]
                Image.fromarray(image).save(folder / cls / f"{number}.jpg")
                grey = Image.fromarray(mask if number == 2 else 255 * mask)
                saved = grey if number % 2 else grey.convert("RGB")
                saved.save(folder / cls / f"{number}.png")
    (folder / "splits").mkdir()
    for split in ("trn", "test"):
        (folder / f"splits/{split}.txt").write_text("".join(f"{name}\n" for name in names[split][::-1]))
    return folder


def _objects(rng):
    """Two polygons, one in two parts, a crowd in plain run lengths, and one compressed."""

    def box():
        x, y = rng.integers(0, 25), rng.integers(0, 18)
        w, h = rng.integers(5, 15, 2)
        return [float(v) + 0.5 for v in (x, y, x + w, y, x + w, y + h, x, y + h)]

    compressed = coco_mask.encode(np.asfortranarray(rng.random((30, 40)) < 0.1, dtype=np.uint8))
    compressed["counts"] = compressed["counts"].decode()
    shapes = [([box()], 0), ([box(), box()], 0), (_runs(rng), 1), (compressed, 1)]
    return [
        {"segmentation": shape, "iscrowd": crowd, "category_id": int(rng.choice(COCO_IDS))}
        for shape, crowd in shapes
    ]


def _runs(rng):
    start, length = int(rng.integers(0, 600)), int(rng.integers(50, 300))
    return {"size": [30, 40], "counts": [start, length, 1200 - start - length]}
