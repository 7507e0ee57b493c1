"""Pairs of image and mask that must not pass, lists in all usual forms, and changed data that a plan notices."""

import os
import shutil
import struct
import time
import zlib

import numpy as np
import pytest
from data_samples import write_voc
from PIL import Image

from i2r.config.base import ParamsError
from i2r.config.load import load
from i2r.data import content
from i2r.data.list_files import read_list
from i2r.data.lists import fold_lists
from i2r.data.pairs import Pair, check_pairs, open_image, open_mask
from i2r.data.pairs import check_pair as real
from i2r.data.sources import DataError
from i2r.data.voc import index_voc
from i2r.files import sha256 as real_sha
from i2r.pipeline.plan import make_plan


@pytest.fixture
def root(tmp_path):
    return write_voc(tmp_path / "voc")


def read(root, **how):
    return index_voc(root, "lists/train.txt", "lists/val.txt", **how)


# --- bad pairs -----------------------------------------------------------------------------------------------


def cut(image, _):
    """The first half of the image, ended as a whole one."""
    data = image.read_bytes()
    image.write_bytes(data[: len(data) // 2] + b"\xff\xd9")


def cut_short(image, _):
    image.write_bytes(image.read_bytes()[:-200])


def renamed(_, mask):
    Image.open(mask).convert("L").save(mask.with_suffix(".jpg"))
    mask.with_suffix(".jpg").rename(mask)


def four_bits(_, mask):
    """A grey PNG of 4 bits, in which the value 1 is read as 17."""
    height, width = 30, 40
    rows = b"".join(b"\0" + b"\x11" * (width // 2) for _ in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    mask.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def turned(image, _):
    with Image.open(image) as opened:
        exif = opened.getexif()
        exif[0x0112] = 3
        opened.save(image, exif=exif)


def other_format(image, _):
    Image.open(image).save(image, format="PNG")


def cut_mask(_, mask):
    Image.fromarray(np.random.default_rng(0).integers(0, 20, (30, 40), dtype=np.uint8)).save(mask)
    mask.write_bytes(mask.read_bytes()[:-300])


def empty_image(image, _):
    image.write_bytes(b"")


def empty_mask(_, mask):
    mask.write_bytes(b"")


def cut_in_the_header(_, mask):
    mask.write_bytes(mask.read_bytes()[:20])


def folder(image, _):
    image.unlink()
    image.mkdir()


def in_colour(_, mask):
    Image.open(mask).convert("RGB").save(mask)


BAD = {
    empty_image: "train3.jpg: the file is empty",
    empty_mask: "train3.png: the file is empty",
    cut_in_the_header: "train3.png: its header is damaged",
    folder: "train3.jpg: a folder, not a file",
    in_colour: "train3.png: a mask must be a palette or grey PNG with 8 bits; this file has mode RGB",
    cut: "train3.jpg: damaged, part of the image is missing",
    cut_short: "train3.jpg: (damaged|cannot be read)",
    renamed: "train3.png: a mask must be a PNG, but this is a JPEG",
    four_bits: "train3.png: a grey mask must have 8 bits, this one has 4",
    turned: "train3.jpg: has the EXIF orientation 3, so it cannot be known",
    other_format: "train3.jpg: called .jpg, but it is a PNG",
    cut_mask: "train3.png: cannot be read",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_bad_pair_stops_the_index(root, spoil):
    spoil(root / "JPEGImages/train3.jpg", root / "SegmentationClassAug/train3.png")
    with pytest.raises(DataError, match=BAD[spoil]):
        read(root)


@pytest.mark.parametrize("kept", [0, 5, 20, 60], ids=lambda kept: f"{kept} bytes")
def test_a_cut_image_is_named_wherever_it_is_read(root, kept):
    for name, read_one in (
        ("JPEGImages/train3.jpg", open_image),
        ("SegmentationClassAug/train3.png", open_mask),
    ):
        path = root / name
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(DataError, match=f"^{path}: "):
            read_one(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(root):
    (root / "JPEGImages/train3.jpg").chmod(0)
    with pytest.raises(DataError, match=r"train3.jpg: may not be read; change its permissions"):
        read(root)


def test_all_bad_pairs_are_in_one_message_or_left_out_by_name(root):
    cut(root / "JPEGImages/train3.jpg", None)
    renamed(None, root / "SegmentationClassAug/val1.png")
    (root / "JPEGImages/val2.jpg").unlink()
    with pytest.raises(
        DataError, match=r"(?s)3 of 14 pairs .*train3.jpg: damaged.*val1.png.*val2.jpg: no such"
    ):
        read(root)
    index = read(root, faulty="leave_out")
    assert list(index["left_out"]) == ["train3", "val1", "val2"]
    assert index["left_out"]["val2"].startswith("JPEGImages/val2.jpg: no such file")  # wherever the data are
    assert len(index["train"]) == 7 and len(index["val"]) == 4


def test_the_result_does_not_depend_on_the_number_of_processes(root, monkeypatch):
    monkeypatch.setattr("i2r.data.pairs._CHUNK", 2)
    assert read(root, workers=2) == read(root)


def test_an_interrupted_check_goes_on(root, tmp_path, monkeypatch):
    saved = tmp_path / "state/checked.jsonl"
    whole = read(root, saved=saved)
    lines = saved.read_text().splitlines(keepends=True)
    saved.write_text("".join(lines[:5]) + lines[5][:20])  # killed while it wrote a line
    checked = []
    monkeypatch.setattr(
        "i2r.data.pairs.check_pair", lambda classes, pair: checked.append(pair.name) or real(classes, pair)
    )
    assert read(root, saved=saved) == whole
    assert len(checked) == 14 - 5
    checked.clear()
    image = root / "JPEGImages/train3.jpg"
    os.utime(image, (1, 1))  # a file that is no longer the checked one
    assert read(root, saved=saved) == whole
    assert checked == ["train3"]


def test_a_grey_jpeg_is_good(root):
    image = root / "JPEGImages/train3.jpg"
    Image.open(image).convert("L").save(image)
    assert not check_pairs([Pair("train3", image, root / "SegmentationClassAug/train3.png")], 20)[
        "train3"
    ].fault


# --- lists ---------------------------------------------------------------------------------------------------

A, B = "2007_000033", "2007_000042"
PAIR = "JPEGImages/{0}.jpg SegmentationClassAug/{0}.png"
FORMS = [
    f"{A}\n{B}\n",
    f"{A}.jpg\r\n\r\n{B}.jpg\r\n",
    f"{PAIR.format(A)}\n{PAIR.format(B)}",
    f"/{PAIR.format(A).replace(' ', ' /')}\n/JPEGImages/{B}.jpg\n",
    f"\\{PAIR.format(A)}\n{PAIR.format(B)}".replace("/", "\\"),
    f"{PAIR.format(A).replace(' ', ',')}\n{PAIR.format(B).replace(' ', ', ')}",
    f"/my data/VOC/JPEGImages/{A}.jpg\t/my data/VOC/SegmentationClassAug/{A}.png\n{B}",
    f"{A}__01\n{A}__15\n{B}__03\n",
]


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_lists_in_the_forms_that_users_have(tmp_path, text, encoding):
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode(encoding))
    assert read_list(path, "JPEGImages", "SegmentationClassAug") == [A, B]


def test_other_lists_get_a_sentence(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a__01\na__01\n")
    with pytest.raises(DataError, match=r"list\.txt:2: a__01 is in the list twice"):
        read_list(path)
    path.write_text("Images/a.jpg\n")
    with pytest.raises(DataError, match=r"list\.txt:1: expected ID"):
        read_list(path, "JPEGImages", "SegmentationClassAug")
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DataError, match="not a text file"):
        read_list(path)


def test_test_images_in_the_training_list_are_refused():
    index = {"classes": [str(n) for n in range(20)], "train": {"a": {"9": 5000, "1": 3000}, "b": {"9": 5000}}}
    index["val"] = {"a": {"9": 5000, "1": 3000}}
    with pytest.raises(ValueError, match=r"1 images are in the training and the test list of fold 0: a"):
        fold_lists(index, 0, min_area=2048, novel="keep")
    assert fold_lists(index, 0, min_area=2048, novel="drop")["train"] == ["b"]


# --- content in the keys -------------------------------------------------------------------------------------


@pytest.fixture
def planned(root, tmp_path, monkeypatch):
    """Key of the data job and digest in it, of a plan made in a folder of its own."""
    params = tmp_path / "params.yaml"
    params.write_text(
        f"experiment: x\ndata: {{root: {root}}}\nmethods: {{bam: {{label: BAM, network: bam}}}}\n"
        "targets: {table1: {methods: [bam], folds: [0]}}\n"
    )
    monkeypatch.chdir(tmp_path)

    def plan(digest=None):
        content._known.clear()
        made = make_plan(load(params, {"data": {"digest": digest}} if digest else None))
        (spec,) = [spec for spec in made.jobs.values() if spec.step == "data"]
        return spec.key, spec.params["data"]["digest"]

    return plan


def test_a_changed_image_mask_or_list_gives_another_key(root, planned):
    first = planned()
    assert first[1] == read(root)["digest"]
    assert planned() == first
    changes = [
        lambda: shutil.copy(root / "JPEGImages/val0.jpg", root / "JPEGImages/val1.jpg"),
        lambda: shutil.copy(root / "SegmentationClassAug/val0.png", root / "SegmentationClassAug/val1.png"),
        lambda: (root / "lists/val.txt").write_text("val0\nval1\n"),
    ]
    for change in changes:
        before = planned()
        change()
        assert planned() != before
    write_voc(root.parent / "again")
    shutil.rmtree(root)
    (root.parent / "again").rename(root)
    assert planned() == first  # the same content under other times


def test_files_are_read_again_only_if_size_or_time_differ(root, planned, monkeypatch):
    for path in root.rglob("*.*"):
        os.utime(path, (time.time() - 100,) * 2)
    planned()
    hashed = []
    monkeypatch.setattr(content, "sha256", lambda path: hashed.append(path.name) or real_sha(path))
    planned()
    assert hashed == []
    shutil.copy(root / "JPEGImages/val0.jpg", root / "JPEGImages/val1.jpg")
    planned()
    assert hashed == ["val1.jpg"]


def test_the_digest_in_params_is_checked_at_every_plan(root, planned):
    digest = planned()[1]
    assert planned(digest)[1] == digest
    shutil.copy(root / "JPEGImages/val0.jpg", root / "JPEGImages/val1.jpg")
    with pytest.raises(ParamsError, match=r"data\.digest: .* but the params have"):
        planned(digest)
    shutil.rmtree(root)  # a plan with a digest does not need the data
    assert planned(digest)[1] == digest
