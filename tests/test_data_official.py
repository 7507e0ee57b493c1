"""Official data sets in a shared data folder: what is made of the archives, and what stands for them in keys."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from official_archives import Server, served_table
from test_fetch_workflow import FILES, write_table
from test_pipeline import planned

from i2r.config.base import ParamsError
from i2r.config.data_set import OFFICIAL
from i2r.data import official
from i2r.data.fetch import FetchError
from i2r.data.official import Wanted, lacking, lacking_text, obtain
from i2r.pipeline.plan import Plan

SMALL = {"data": {"root": None, "source": "voc"}, "backbone": {"name": "resnet50"}, "make": ["table1"]}
MASK = "VOC2012/SegmentationClassAug/2008_000008.png"  # from SBD


@pytest.fixture
def voc(tmp_path: Path, server: Server) -> Wanted:
    return Wanted(tmp_path / "data", *OFFICIAL["voc"], served_table(FILES, server.address))


def test_an_altered_file_is_named_and_made_again_and_files_of_people_stay(
    voc: Wanted, capsys: pytest.CaptureFixture[str]
):
    made = obtain(voc)
    whole, own = (voc.root / MASK).read_bytes(), voc.root / "VOC2012/notes.txt"
    own.write_text("mine")
    (voc.root / MASK).write_bytes(whole[:-1] + b"!")
    capsys.readouterr()
    assert obtain(voc) == made
    assert "1 missing or altered, made again: SegmentationClassAug/2008_000008.png" in capsys.readouterr().err
    assert (voc.root / MASK).read_bytes() == whole and own.read_text() == "mine"
    assert not list(voc.root.glob(".preparing-*"))


def test_a_killed_preparation_leaves_nothing_that_counts(voc: Wanted, monkeypatch: pytest.MonkeyPatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(official, "list_files", killed)
        obtain(voc)
    assert not (voc.root / "VOC2012").exists()
    obtain(voc)
    assert (voc.root / MASK).is_file() and not list(voc.root.glob(".preparing-*"))


def test_what_is_lacking_is_said_with_sizes_and_the_rest_is_not(voc: Wanted):
    text = lacking_text(voc, lacking(voc))
    assert text.count("from http") == 3 and ", 1 file of unknown size, about " in text
    obtain(replace(voc, names=voc.names[1:], folder=""))
    (state,) = lacking(voc)
    assert state.archive.name == "voc2012" and state.to_fetch == len(FILES["voc2012"])
    offline = replace(voc, offline=True)
    assert lacking_text(offline, lacking(offline)) == ""
    obtain(voc)
    assert lacking(voc) == []
    shutil.rmtree(voc.root / "VOC2012")
    shutil.rmtree(voc.root / "VOCdevkit")
    assert "is there, and will be unpacked" in lacking_text(voc, lacking(voc))


def test_a_folder_placed_by_hand_must_have_everything(voc: Wanted, server: Server):
    (voc.root / "VOC2012/JPEGImages").mkdir(parents=True)
    for look in (lacking, obtain):
        with pytest.raises(
            FetchError, match=r"but has no SegmentationClassAug, lists/train.txt, lists/val.txt"
        ):
            look(voc)
    assert not server.asked and list((voc.root / "VOC2012").iterdir()) == [voc.root / "VOC2012/JPEGImages"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to change the user")
def test_a_complete_folder_may_be_read_only(voc: Wanted):
    made = obtain(voc)
    for path in [voc.root, *voc.root.rglob("*")]:
        path.chmod(path.stat().st_mode | (0o55 if path.is_dir() else 0o44))
    child = os.fork()
    if not child:
        try:
            os.chdir(voc.root)  # folders above it are closed to other users
            os.setuid(65534)
            os._exit(0 if obtain(replace(voc, root=Path())) == made else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- keys ----------------------------------------------------------------------------------------------------


def keys_of(made: Plan) -> set[str]:
    return {spec.key for spec in made.of("all")}


def test_keys_hold_the_archives_and_nothing_of_this_machine(tmp_path: Path, voc: Wanted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "table.csv", "http://elsewhere")
    runtime = {"archives": "table.csv", "data_root": str(voc.root)}
    before = planned("pascal", runtime=runtime)
    (data,) = (spec for spec in before.of("all") if spec.step == "data")
    assert data.data_root == str(voc.root / "VOC2012") and before.labels[data.key] == ["VOC2012"]
    assert not any(
        given.step == "fetch" for s in before.of("all") if s.step == "report" for given in s.inputs.values()
    )
    obtain(voc)
    others = {"data_root": "shared", "mirrors": ["http://mirror"], "offline": True}
    for changes in ({}, others):
        assert keys_of(planned("pascal", runtime=runtime | changes)) == keys_of(before)
    table = (tmp_path / "table.csv").read_text()
    (tmp_path / "other.csv").write_text(table.replace(voc.table["sbd"].checksum, "md5:" + 32 * "0"))
    other = planned("pascal", runtime=runtime | {"archives": "other.csv"})
    changed = {other.jobs[key].step for key in keys_of(other) - keys_of(before)}
    assert {"fetch", "data", "lists", "train", "report"} <= changed and "backbone" not in changed


def test_weights_without_a_checksum_count_by_content_once_they_are_there(tmp_path: Path):
    def backbone() -> tuple:
        made = planned("pascal", runtime={"data_root": str(tmp_path)})
        return next(s for s in made.of("all") if s.params.get("backbone", {}).get("name") == "resnet50-bam")

    assert set(backbone().inputs) == {"fetched"}
    path = tmp_path / "weights/resnet50_v2.pth"
    path.parent.mkdir()
    seen = set()
    for content in (b"one", b"two"):
        path.write_bytes(content)
        assert not backbone().inputs and backbone().files == {"backbone.weights": str(path)}
        seen.add(backbone().key)
    given = planned("pascal", methods={"bam": {"backbone": {"weights": str(path)}}})
    assert len(seen) == 2 and seen & keys_of(given)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"runtime": {"archives": "none.csv"}}, r"runtime.archives: none.csv: no such table of archives"),
        ({"backbone": {"stride_at": "1x1"}}, "the published weights of resnet50 are for 3x3, not 1x1"),
        (
            {
                "backbone": {"name": "vit_small_14"},
                "cam_head": {"mode": "none"},
                "network": {"prior": "mean"},
            },
            "backbone.weights: there is no default file for vit_small_14; name one",
        ),
    ],
)
def test_what_cannot_be_planned_gets_its_sentence(changes: dict, sentence: str):
    with pytest.raises(ParamsError, match=sentence):
        planned("pascal", **changes)


def test_a_table_without_an_archive_is_named(tmp_path: Path):
    write_table(tmp_path / "table.csv", "http://elsewhere")
    lines = (tmp_path / "table.csv").read_text().splitlines(keepends=True)
    (tmp_path / "table.csv").write_text("".join(line for line in lines if not line.startswith("sbd,")))
    with pytest.raises(ParamsError, match=r"table.csv has no archive sbd"):
        planned("pascal", runtime={"archives": str(tmp_path / "table.csv")})
