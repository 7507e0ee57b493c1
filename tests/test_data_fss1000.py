"""FSS-1000: classes divided by lists, more of them than a byte can hold."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from data_samples import write_fss
from PIL import Image
from safetensors.torch import load_file, save_file

from i2r import cli
from i2r.config.base import ParamsError
from i2r.config.data_set import Data
from i2r.config.load import load, resolve
from i2r.config.schema import Backbone
from i2r.data import counts, fss1000
from i2r.data.dataset import Dataset
from i2r.data.index_table import read_index
from i2r.data.lists import fold_lists
from i2r.data.sources import DataError
from i2r.data.transforms import binary, evaluation_view, train_view
from i2r.engine.inputs import class_table
from i2r.files import read_json
from i2r.nets.backbone.base import build_backbone
from i2r.nets.resize import nearest
from i2r.pipeline.identity import data_identity
from i2r.pipeline.jobs import run_job
from i2r.pipeline.plan import make_plan
from i2r.pipeline.spec import RESULTS, JobError
from i2r.pipeline.stage import prepare
from i2r.pipeline.steps import STEPS

SECTIONS = {
    "data": {"source": "fss1000", "root": "somewhere", "size": 97, "min_area": 1},
    "backbone": {"name": "squeezenet1_1"},
    "base_learner": {"validate_every": 0},
    "experiment": "fss",
    "methods": {"i2r": {}},
    "targets": {"table1": {"methods": ["i2r"]}},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_fss(tmp_path_factory.mktemp("fss") / "fss1000")


@pytest.fixture
def own(root, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(root, tmp_path / "fss1000"))


def indexed(root, **options):
    return fss1000.SOURCE.index(options, root, root)


def test_the_index_numbers_classes_by_name_and_the_lists_divide_them(root):
    index = indexed(root)
    assert len(index["classes"]) == 300 and index["classes"] == sorted(index["classes"])
    assert list(index["train"])[:2] == ["b_train_0000/1", "b_train_0000/2"]
    assert list(index["train"])[9] == "b_train_0000/10"
    assert index["val"]["c_test_0011/3"] == {"300": 144}
    lists = fold_lists({"source": "fss1000", **index}, 0, min_area=1, folds="lists", number=1)
    assert (lists["train_classes"], lists["test_classes"]) == (list(range(265, 289)), list(range(289, 301)))
    assert len(lists["train"]) == 240 and len(lists["test"]) == 120


def test_other_lists_can_be_chosen(own):
    (own / "splits/val.txt").write_text("a_0003\na_0001")
    index = indexed(own, val_list="splits/val.txt")
    assert list(index["val"]) == ["a_0001/1", "a_0003/1"]


@pytest.mark.parametrize("cls", [255, 256, 300])
def test_masks_of_class_ids_beyond_a_byte_become_binary_views(root, cls):
    names = fss1000.class_names(root)
    dataset = Dataset(root / "no index", {"classes": list(names)}, root, fss1000.SOURCE)
    name = f"{names[cls - 1]}/1"
    image, mask = dataset.image(name), dataset.mask(name)
    assert set(np.unique(mask)) == {0, cls}
    _, view, place = evaluation_view(image, mask, 97)
    one = binary(view, cls)
    assert one.dtype == torch.uint8 and set(one.unique().tolist()) == {0, 1, 255}
    assert (one[: place.inner_h, : place.inner_w] == 1).sum() == (view == cls).sum() > 0
    assert (one[place.inner_h :] == 255).all()
    half = nearest(view[:96, :96], (48, 48))
    assert half.dtype == view.dtype and torch.equal(half, view[:96:2, :96:2])
    augment = resolve([("test", SECTIONS)]).methods["i2r"].params.train.augment
    _, turned = train_view(image, mask, 33, augment, np.random.default_rng(1), cls)
    assert set(turned.unique().tolist()) == {-1, 0, cls}


def test_masks_are_black_and_white_in_any_form(tmp_path):
    shape = np.zeros((8, 8), np.uint8)
    shape[2:5] = 1
    shades = np.where(shape, 200, 100).astype(np.uint8)  # around HSNet's limit of 128
    for number, mask in enumerate(
        (
            Image.fromarray(shape),
            Image.fromarray(255 * shape).convert("RGB"),
            Image.fromarray(255 * shape).convert("1"),
            Image.fromarray(255 * shape).convert("P"),
            Image.fromarray(shades),
        )
    ):
        mask.save(tmp_path / f"{number}.png")
        assert (fss1000.read_mask(tmp_path, str(number)) == shape).all()
    Image.fromarray(0 * shape).save(tmp_path / "empty.png")
    with pytest.raises(DataError, match=r"empty\.png: the mask shows no object"):
        fss1000.read_mask(tmp_path, "empty")


def test_faults_are_sentences(own):
    (own / "b_train_0000/3.png").unlink()
    (own / "b_train_0001/4.jpg").unlink()
    Image.new("L", (24, 24)).save(own / "c_test_0000/5.png")
    Image.new("L", (20, 24), 255).save(own / "c_test_0001/6.png")
    with pytest.raises(DataError) as found:
        indexed(own)
    text = str(found.value)
    assert text.startswith("4 of 360 pairs")
    for part in (
        "0000/3.png: no such file",
        "0001/4.jpg: no such file",
        "shows no object",
        "mask has 20 x 24",
    ):
        assert part in text
    index = fss1000.SOURCE.index({}, own, own, faulty="leave_out")
    assert len(index["left_out"]) == 4 and len(index["train"]) == 238


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({"trn": None}, r"trn\.txt: no such list of classes, one name a line; HSNet has the usual ones"),
        ({"test": "\n"}, r"test\.txt: the list is empty"),
        ({"test": "abacus\n"}, r"test\.txt: 1 classes have no folder with a 1\.jpg: abacus"),
        ({"trn": "a_0001\na_0001\n"}, r"trn\.txt: in the list twice: a_0001"),
        (
            {"trn": "a_0001\n", "test": "a_0001\n"},
            "1 classes are in the training and in the test list: a_0001",
        ),
    ],
)
def test_wrong_lists_are_sentences(own, lists, sentence):
    for name, text in lists.items():
        path = own / f"splits/{name}.txt"
        path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match=sentence):
        indexed(own)


def test_a_folder_without_classes_is_a_sentence(tmp_path):
    for folder, sentence in (
        (tmp_path, "no folder of a class with a 1.jpg"),
        (tmp_path / "no", "no such folder"),
    ):
        with pytest.raises(DataError, match=sentence):
            indexed(folder)


def test_the_key_notices_another_image_list_or_class(own, tmp_path):
    def digest(number):  # each with a state of its own, as a plan is another process
        given = Data(source="fss1000", root=str(own), size=97, draw="present")
        found = data_identity(given, tmp_path / str(number), "data")
        assert found["train_list"] == "splits/trn.txt"
        return found["digest"]

    digests = [digest(0)]
    assert digests[0] == indexed(own)["digest"]
    shutil.copy(own / "b_train_0000/1.jpg", own / "b_train_0000/2.jpg")
    digests.append(digest(1))
    text = (own / "splits/trn.txt").read_text()
    (own / "splits/trn.txt").write_text(text.replace("b_train_0003\n", ""))
    digests.append(digest(2))
    shutil.copytree(own / "a_0000", own / "a_00001")  # it shifts the numbers of the classes
    digests.append(digest(3))
    assert len(set(digests)) == 4


def test_params_know_that_the_lists_divide_the_classes():
    assert resolve([("test", SECTIONS)]).values.targets["table1"].folds == [0]
    for changes, sentence in (
        ({"targets": {"table1": {"methods": ["i2r"], "folds": [1]}}}, "fss1000 has only fold 0, got 1"),
        (
            {"base_learner": {"validate_every": 1}},
            "no validation image of fss1000 shows a training class; use 0",
        ),
        (
            {"data": SECTIONS["data"] | {"folds": "contiguous"}},
            "the lists of fss1000 divide its classes; use null",
        ),
    ):
        with pytest.raises(ParamsError, match=sentence):
            resolve([("test", SECTIONS | changes)])


def test_the_preset_plans_completely_without_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(load(ROOT / "workflow/presets/fss1000.yaml"))
    assert {spec.step for spec in plan.jobs.values()} == set(STEPS)
    assert {spec.args["fold"] for spec in plan.jobs.values() if "fold" in spec.args} == {0}


def test_a_thousand_classes_are_not_taken_for_those_of_imagenet():
    with pytest.raises(JobError, match="there is no table"):
        class_table([f"class {number}" for number in range(1000)], 1000, {})


def test_all_classes_must_have_the_published_numbers_of_images():
    index = {
        "classes": ["name"] * 1000,
        "train": dict.fromkeys(range(5200)),
        "val": dict.fromkeys(range(2390)),
    }
    assert counts.differences(index, "fss1000") == ["val: 2390 images, published 2400"]
    assert counts.differences(index | {"classes": ["name"] * 999}, "fss1000") == []


def commands(root, monkeypatch, capsys, tmp_path):
    """Lists of fold 0 and episodes that the commands make from a folder."""
    monkeypatch.chdir(tmp_path)

    def i2r(command):
        cli.main(["data", *command.split()])
        return capsys.readouterr().out

    i2r(f"index --source fss1000 --root {root} --out a.parquet --workers 2")
    assert read_index(tmp_path / "a.parquet")["source"] == "fss1000"
    i2r("lists --index a.parquet --rule hsnet --out lists")
    assert not (tmp_path / "lists/fold1").exists()
    i2r("episodes --lists lists --fold 0 --shot 5 --protocol full --out e.json")
    said = i2r(f"describe --index a.parquet --min-area 1 --root {root} --out about")
    assert (tmp_path / "about/samples.png").is_file()
    return read_json(tmp_path / "lists/fold0/lists.json"), read_json(tmp_path / "e.json"), said


def test_the_commands_from_a_folder_to_episodes(root, monkeypatch, capsys, tmp_path):
    lists, episodes, said = commands(root, monkeypatch, capsys, tmp_path)
    assert len(episodes["episodes"]) == len(lists["test"]) == 120
    for episode in episodes["episodes"]:
        shown = {name.split("/")[0] for name in (episode["query"], *episode["supports"])}
        assert shown == {lists["names"][episode["class"] - 1]}
    assert "c_test_0000 90.0" in said
    with pytest.raises(SystemExit):
        cli.main(["data", "lists", "--index", "a.parquet", "--folds", "contiguous", "--out", "other"])
    assert "folds: contiguous, but the lists of fss1000 divide its classes" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_layout(monkeypatch, capsys, tmp_path):
    root = write_fss(tmp_path / "fss1000", train=520, test=240, unlisted=240, side=16)
    lists, episodes, _ = commands(root, monkeypatch, capsys, tmp_path)
    assert len(lists["names"]) == 1000
    assert (len(lists["train"]), len(lists["test"]), len(episodes["episodes"])) == (5200, 2400, 2400)
    assert len(lists["train_classes"]) == 520 and lists["test_classes"] == list(range(761, 1001))


def test_from_a_params_file_to_the_report(tmp_path, monkeypatch):
    """More training classes than a byte can hold, with base learner, CAM head and baselines."""
    monkeypatch.chdir(tmp_path)
    write_fss(tmp_path / "fss1000", train=260, test=6, unlisted=0, images=3)
    torch.manual_seed(0)
    backbone = build_backbone(Backbone(name="squeezenet1_1", stride_at="3x3"))
    save_file(backbone.state_dict(), tmp_path / "squeezenet.safetensors")
    values = SECTIONS | {
        "data": {"source": "fss1000", "root": "fss1000", "size": 33, "min_area": 1, "min_class_images": 2},
        "backbone": {"name": "squeezenet1_1", "weights": "squeezenet.safetensors"},
        "base_learner": {"validate_every": 0, "steps": 2, "batch": 2, "size": None, "width": 8},
        "network": {"blocks": 1, "cross": 0, "width": 8, "ensemble": True},
        "train": {"steps": 2, "batch": 2, "precision": "fp32"},
        "evaluate": {"protocol": "full", "pictures": 2},
        "baselines": {"threshold_episodes": 4},
        "targets": {"table1": {"methods": ["i2r"], "baselines": "i2r"}},
        "report": {"bootstrap": 10},
    }
    plan = prepare(resolve([("test", values)]))
    for spec in plan.jobs.values():
        if spec.step != "track":
            run_job(spec.path(RESULTS))
    done = {spec.step: RESULTS / spec.folder for spec in plan.jobs.values()}
    base = read_json(done["base_learner"] / "scores.json")
    assert len(base["classes"]) == 260 and base["miou"] is None
    assert load_file(done["base_learner"] / "weights.safetensors")["cls.4.weight"].shape[0] == 261
    scores = read_json(done["evaluate"] / "scores.json")
    assert list(scores["classes"]) == [str(cls) for cls in range(261, 267)]
    assert scores["episodes"] == 18 and scores["miou"] is not None
    assert "c_test_0005" in (done["evaluate"] / "scores.json").read_text()
    assert "fold 0" in (done["report"] / "report.html").read_text().lower()


def test_the_photographs_of_the_authors():
    given = os.environ.get("I2R_DATA")
    if not given or not (Path(given) / "fss1000-subset").is_dir():
        pytest.skip("I2R_DATA names no folder with fss1000-subset")
    for number in range(1, 6):
        name = f"eiffel_tower/{number}"
        image, mask = (
            read(Path(given) / "fss1000-subset", name) for read in (fss1000.read_image, fss1000.read_mask)
        )
        assert image.shape == (224, 224, 3) and 0.01 < mask.mean() < 0.1
