"""Folders made from the official archives, published counts, and the commands of `i2r data`."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from data_samples import write_coco, write_voc
from PIL import Image
from scipy.io import savemat

from i2r import cli
from i2r.data import counts, prepare
from i2r.data.index_table import read_index, read_summary, write_index
from i2r.data.list_files import read_list
from i2r.data.lists import fold_lists
from i2r.data.pairs import open_mask
from i2r.data.palette import save_mask
from i2r.data.sources import DataError
from i2r.data.voc import index_voc
from i2r.steps import data as data_step

TRAIN, VAL = ["2007_000009", "2007_000003", "2007_000007"], ["2007_000004", "2007_000002"]
SBD = ["2008_000001", "2007_000007", "2007_000001", "2007_000002"]  # with one of VOC's val


@pytest.fixture
def archives(tmp_path):
    """VOC 2012 and SBD as their archives unpack, with random masks."""
    rng = np.random.default_rng(0)
    voc, sbd = tmp_path / "VOCdevkit/VOC2012", tmp_path / "benchmark_RELEASE/dataset"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for folder in ("img", "cls"):
        (sbd / folder).mkdir(parents=True)
    (voc / "ImageSets/Segmentation/train.txt").write_text("\n".join(TRAIN))
    (voc / "ImageSets/Segmentation/val.txt").write_text("\n".join(VAL))
    (sbd / "train.txt").write_text("\n".join(SBD))
    for name in {*TRAIN, *VAL, *SBD}:
        image = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
        image.save((sbd / "img" if name == "2007_000001" else voc / "JPEGImages") / f"{name}.jpg")
        if name in TRAIN + VAL:
            save_mask(voc / "SegmentationClass" / f"{name}.png", np.full((20, 30), 7, np.uint8))
        if name in SBD:
            labels = rng.integers(0, 21, (20, 30)).astype(np.uint8)
            parts = {
                "Segmentation": labels,
                "CategoriesPresent": [1, 2],
            }
            savemat(sbd / "cls" / f"{name}.mat", {"GTcls": parts}, do_compression=True)
    return tmp_path


def test_voc_and_sbd_make_one_folder_in_bams_order(archives, tmp_path):
    out = tmp_path / "out"
    said = prepare.prepare_voc(archives / "VOCdevkit", archives, out)
    assert "5 training and 2 validation images; not the whole data set: VOC train 3 (published 1464)" in said
    train = ["2007_000001", "2007_000007", "2008_000001", "2007_000003", "2007_000009"]
    assert read_list(out / "lists/train.txt", "JPEGImages", "SegmentationClassAug") == train
    assert read_list(out / "lists/val.txt") == sorted(VAL)
    assert (open_mask(out / "SegmentationClassAug/2007_000007.png") == 7).all()  # VOC's own before SBD's
    given = prepare.read_sbd(archives / "benchmark_RELEASE/dataset/cls/2008_000001.mat")
    np.testing.assert_array_equal(open_mask(out / "SegmentationClassAug/2008_000001.png"), given)
    assert len(index_voc(out, "lists/train.txt", "lists/val.txt")["train"]) == 5
    again = "is prepared, use it as data.root: 5 training and 2 validation images"
    assert again in prepare.prepare_voc(out, None, tmp_path / "other")


def test_sbds_own_list_is_used_where_it_is(archives, tmp_path):
    (archives / "train_noval.txt").write_text("2008_000001\n")
    prepare.prepare_voc(archives, archives, tmp_path / "out")
    assert len(read_list(tmp_path / "out/lists/train.txt")) == 4


def test_missing_files_are_all_named_and_the_next_run_goes_on(archives, tmp_path):
    lost = archives / "benchmark_RELEASE/dataset/cls/2008_000001.mat"
    kept = lost.read_bytes()
    lost.write_bytes(b"nothing")
    image = archives / "VOCdevkit/VOC2012/JPEGImages/2007_000004.jpg"
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(
        DataError, match=r"(?s)2 files .*2008_000001.mat: not an annotation of SBD.*2007_000004.jpg"
    ):
        prepare.prepare_voc(archives, archives, tmp_path / "out")
    assert not (tmp_path / "out/lists").exists()
    lost.write_bytes(kept)
    image.write_bytes(content)
    assert "5 training" in prepare.prepare_voc(archives, archives, tmp_path / "out")


def test_lists_as_long_as_published_must_overlap_as_published():
    assert "have the published lengths" in prepare.check_lengths(prepare.PUBLISHED)
    wrong = prepare.PUBLISHED | {"VOC train not in SBD": 331, "train": 5954}
    with pytest.raises(DataError, match="do not overlap as published"):
        prepare.check_lengths(wrong)
    with pytest.raises(DataError, match=r"no ImageSets/Segmentation/train.txt of VOC 2012 here"):
        prepare.origins(Path("/nowhere"), Path("/nowhere"))


def test_coco_in_a_folder_of_links(tmp_path):
    given = write_coco(tmp_path / "given")
    said = prepare.prepare_coco(given, tmp_path / "out")
    assert said.endswith("14 masks in masks/, of 8 train2014 and 6 val2014 images")
    assert not (given / "masks").exists() and (tmp_path / "out/val2014").is_symlink()


def full_index(lost: int):
    """An index as long as PASCAL's, with the published images of fold 0's test classes but for `lost` of class 3."""
    val = {}
    for cls, count in counts.published("voc")["val_class"]["0"].items():
        val |= {f"{cls} {n}": {cls: 3000} for n in range(count - lost * (cls == "3"))}
    val |= {f"other {n}": {} for n in range(1449 - len(val))}
    return {"classes": [str(n) for n in range(20)], "train": {f"t{n}": {} for n in range(5953)}, "val": val}


def test_published_counts_are_asserted_for_full_data_only():
    whole, lacks = (counts.differences(full_index(lost), "voc", shown=99) for lost in (0, 2))
    text = "fold 0 val, class 3: 87, published 89"
    assert text in lacks and text not in whole
    assert "fold 0 train, images: 0, published 4208" in whole
    index = full_index(2)
    del index["val"]["1 0"]
    assert not counts.is_full(index, "voc") and counts.differences(index, "voc") == []
    assert counts.published("coco")["val_list"] == [26052, 15305, 13138, 12640]


def test_the_step_stops_at_other_counts_or_prints_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("i2r.steps.data.differences", lambda index, source: ["fold 0: 1, published 2"])
    root = write_voc(tmp_path / "voc")
    more = {"out": tmp_path, "data_root": root, "state": tmp_path, "threads": 1}

    def run(**options):
        runtime = SimpleNamespace(workers=0)
        return data_step.run(
            SimpleNamespace(params={"data": {"source": "voc"} | options}, runtime=runtime, **more)
        )

    with pytest.raises(DataError, match=r"fold 0: 1, published 2. Set `data.counts: print` to continue"):
        run()
    run(counts="print")
    assert "fold 0: 1, published 2" in capsys.readouterr().out


def test_an_index_survives_as_a_table(tmp_path):
    made = {"source": "voc", **index_voc(write_voc(tmp_path / "voc"), "lists/train.txt", "lists/val.txt")}
    write_index(tmp_path / "index.parquet", made)
    assert read_index(tmp_path / "index.parquet", "sizes", "files") == made
    assert not {"sizes", "files"} & read_index(tmp_path / "index.parquet").keys()
    assert read_summary(tmp_path / "index.parquet")["images"] == {"train": 8, "val": 6}
    table = pd.read_parquet(tmp_path / "index.parquet")
    assert list(table.columns) == [
        "image",
        "split",
        *("height", "width", "image_sha256", "mask_sha256"),
        "pixels",
    ]
    assert dict(table["pixels"][0]) == {int(cls): count for cls, count in made["train"]["train0"].items()}
    (tmp_path / "other.parquet").write_text("nothing")
    with pytest.raises(DataError, match="not an index"):
        read_index(tmp_path / "other.parquet")


def test_the_commands_from_a_folder_to_episodes(tmp_path, monkeypatch, capsys):
    write_coco(tmp_path / "coco")
    monkeypatch.chdir(tmp_path)

    def i2r(command):
        cli.main(["data", *command.split()])
        return capsys.readouterr().out

    said = i2r("index --source coco --root coco --out a.parquet --workers 1")
    assert "8 training and 6 validation images" in said
    assert "fold 3:" in i2r("lists --index a.parquet --rule hsnet --out lists")
    first = (tmp_path / "lists/fold0/val.txt").read_text().splitlines()[0].split()
    assert all((tmp_path / "coco" / path).is_file() for path in first)
    by_class = json.loads((tmp_path / "lists/fold0/val_classes.json").read_text())
    assert list(by_class) == [str(cls) for cls in range(1, 81, 4)]
    for protocol in ("bam-20", "hsnet-1000", "balanced-4", "full"):
        i2r(f"episodes --lists lists --fold 0 --shot 1 --seed 3 --protocol {protocol} --out e.json")
    assert "hair drier" in i2r("describe --index a.parquet --min-area 1 --root coco --out about")
    assert (tmp_path / "about/samples.png").is_file()
    theirs = tmp_path / "theirs.txt"
    lines = (tmp_path / "lists/fold0/val.txt").read_text().splitlines()
    theirs.write_text("\n".join(lines[::-1]))
    said = i2r(f"compare-lists lists/fold0/val.txt {theirs}")
    assert "stand in another order" in said
    theirs.write_text("\n".join(lines))
    assert "in the same order" in i2r(f"compare-lists lists/fold0/val.txt {theirs}")


INDEX = "data index --out a.parquet --source"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"{INDEX} voc --root no", "i2r: no: no such folder; `data.root` or `--root` must name"),
        (f"{INDEX} voc --root .", "i2r: JPEGImages: no such folder; `data.root` or `--root` must name"),
        (f"{INDEX} coco --root no", "i2r: no: no such folder; `data.root` or `--root` must name"),
        (f"{INDEX} fss1000 --root no", "i2r: no: no such folder; `data.root` or `--root` must name"),
        (f"{INDEX} fss1000 --root .", "i2r: .: no folder of a class with a 1.jpg"),
        ("data lists --index a --out b --size 100", "argument --size: size - 1 must be a multiple of 8"),
        (
            "data lists --index a --out b --size big",
            "argument --size: must be a whole number above 0, got 'big'",
        ),
        ("import-checkpoint --kind bam --size 100 a b", "argument --size: size - 1 must be a multiple of 8"),
        (
            "data episodes --lists a --fold 0 --out b --shot 0",
            "argument --shot: must be a whole number above 0",
        ),
        (
            "data episodes --lists a --fold -1 --out b",
            "argument --fold: must be a whole number from 0, got '-1'",
        ),
        ("plan --cores 0", "argument --cores: must be a whole number above 0"),
    ],
)
def test_what_is_wrong_is_said_of_the_option_that_was_typed(command, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(command.split())
    assert said in capsys.readouterr().err


def test_voc2012_small_has_the_counts_of_its_readme():
    given = os.environ.get("I2R_DATA")
    if not given or not (Path(given) / "voc2012-small").is_dir():
        pytest.skip("I2R_DATA names no folder with voc2012-small")
    index = index_voc(Path(given) / "voc2012-small", "lists/train.txt", "lists/val.txt", workers=2)
    # 2048 pixels before the reduction, which moves single images across the limit within their fold
    lists = [fold_lists(index, fold, min_area=int(2048 * 0.64**2)) for fold in range(4)]
    assert [len(fold["test"]) for fold in lists] == [263, 347, 446, 236]
    found = {int(cls): len(images) for fold in lists for cls, images in fold["test_by_class"].items()}
    readme = (61, 51, 65, 32, 55, 44, 74, 118, 59, 69, 38, 125, 76, 56, 265, 43, 53, 54, 54, 47)
    assert all(abs(found[cls] - count) <= 1 for cls, count in enumerate(readme, start=1))
