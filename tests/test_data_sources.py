"""Tests of every registered data source; a new source needs a function in SAMPLES."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from data_samples import write_coco, write_fss, write_voc

from i2r.config import data_set as params
from i2r.data.dataset import open_dataset
from i2r.data.index_table import read_index
from i2r.data.lists import fold_lists
from i2r.data.sources import DataError, open_source
from i2r.data.transforms import unknown
from i2r.steps import data as data_step


def sample_shapes(folder):
    return {"shapes": {"train_images": 8, "val_images": 6, "seed": 0}}, None


def sample_voc(folder):
    return {"train_list": "lists/train.txt", "val_list": None}, write_voc(folder)


def sample_coco(folder):
    return {}, write_coco(folder)


def sample_fss(folder):
    return {}, write_fss(folder)


# name: folder -> (its values of `data`, data_root)
SAMPLES = {"shapes": sample_shapes, "voc": sample_voc, "coco": sample_coco, "coco-crowds": sample_coco}
SAMPLES |= {"fss1000": sample_fss}


def make(name, folder):
    """The folder of a data job on the sample, its data_root, and the step's metrics."""
    options, root = SAMPLES[name](folder / "sample")
    out = folder / "out"
    out.mkdir(parents=True)
    job = {"params": {"data": {"source": name, **options}}, "out": out, "data_root": root}
    job |= {"state": folder / "state", "threads": 1, "runtime": SimpleNamespace(workers=0)}
    return out, root, data_step.run(SimpleNamespace(**job))


@pytest.fixture(scope="module", params=sorted(params.SOURCES))
def made(request, tmp_path_factory):
    assert request.param in SAMPLES, f"data source {request.param}: give SAMPLES an example of it"
    folder = tmp_path_factory.mktemp(request.param)
    out, root, metrics = make(request.param, folder)
    return request.param, open_dataset(out, root), metrics, folder


def test_the_index_says_what_is_in_the_masks(made):
    name, dataset, metrics, folder = made
    index = read_index(folder / "out/index.parquet", "sizes")
    assert {split: index[split] for split in ("train", "val")} == {
        s: dataset.index[s] for s in ("train", "val")
    }
    assert index["source"] == name and index["digest"] == metrics["digest"]
    assert (len(index["train"]), len(index["val"])) == (metrics["train_images"], metrics["val_images"])
    for split in ("train", "val"):
        for image, pixels in index[split].items():
            mask = dataset.mask(image)
            values, counts = np.unique(mask[(mask != 0) & (mask != unknown(mask))], return_counts=True)
            assert pixels == dict(zip(map(str, values), counts, strict=True))
            assert index["sizes"][image] == list(mask.shape)


def test_images_and_masks_fit_one_another(made):
    _, dataset, _, _ = made
    for name in dataset.index["val"]:
        image, mask = dataset.image(name), dataset.mask(name)
        assert image.dtype == np.uint8
        assert mask.dtype == (np.uint8 if len(dataset.classes) < 255 else np.int16)
        assert image.shape == (*mask.shape, 3)
        assert set(np.unique(mask)) <= {*range(len(dataset.classes) + 1), unknown(mask)}


def test_folds_divide_the_classes(made):
    name, dataset, _, _ = made
    classes, number = set(range(1, len(dataset.classes) + 1)), params.SOURCES[name].folds
    assert len(set(dataset.classes)) == len(classes)
    how = {"min_area": 1, "folds": dataset.source.folds, "number": number}
    folds = [fold_lists(dataset.index, fold, **how) for fold in range(number)]
    tested = [c for fold in folds for c in fold["test_classes"]]
    assert len(tested) == len(set(tested))
    assert all(not set(fold["train_classes"]) & set(fold["test_classes"]) for fold in folds)
    if not params.SOURCES[name].by_list:
        assert set(tested) | set(folds[0]["train_classes"]) == classes
    assert set(dataset.source.imagenet) <= set(dataset.classes)
    assert all(0 <= number < 1000 for number in dataset.source.imagenet.values())


def test_the_same_again_has_the_same_digest(made, tmp_path):
    name, _, metrics, _ = made
    assert make(name, tmp_path)[2]["digest"] == metrics["digest"]


def test_loading_processes_can_be_given_the_data_set(made):
    _, dataset, _, _ = made
    again = pickle.loads(pickle.dumps(dataset))
    name = next(iter(dataset.index["train"]))
    assert (again.image(name) == dataset.image(name)).all()


def test_a_missing_image_and_an_unknown_source_are_sentences(made):
    _, dataset, _, _ = made
    for read in (dataset.image, dataset.mask):
        with pytest.raises(DataError, match=r"no such (image|file)"):
            read("no such image")
    with pytest.raises(DataError, match=r"data\.source must be one of shapes, voc"):
        open_source("paintings")


def test_params_know_the_sources(monkeypatch):
    values = {name: field.default for name, field in params.Data.model_fields.items()} | {"size": 97}
    with pytest.raises(ValueError, match="must be one of shapes, voc"):
        params.Data(**values | {"source": "paintings", "shapes": {}})
    monkeypatch.setitem(params.SOURCES, "paintings", "paintings:SOURCE")
    with pytest.raises(ValueError, match="root must be the folder"):
        params.Data(size=97, source="paintings")
    assert params.Data(size=97, source="voc").official.folder == "VOC2012"
    assert params.Data(size=97, source="voc", root="mine").official is None
