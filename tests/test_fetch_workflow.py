"""Official data as a part of the pipeline: archives in the official layouts, from a server on this machine."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import yaml
from conftest import Toy, make_copy
from data_samples import write_coco
from official_archives import Server, contents, served_table

from i2r.config.methods import overlay
from i2r.data.index_table import read_index
from i2r.files import read_json
from i2r.progress import bytes_text

NOTHING = "Nothing to be done"
VOC, MASK = "VOCtrainval_11-May-2012.tar", "SegmentationClassAug/2007_000032.png"
FILES = contents()
PARAMS = {
    "experiment": "official",
    "data": {"root": None, "min_area": 10, "min_class_images": 1},
    "evaluate": {"episodes": 5},
    "methods": {"i2r": {}},
    "targets": {"table1": {"methods": ["i2r"], "folds": [1]}},
}


@dataclass(frozen=True)
class Clone(Toy):
    """A copy of the project with the real steps, and a data folder that others share."""

    data: Path
    server: Server

    def set(self, **sections: dict) -> None:
        path = self.folder / "params.yaml"
        path.write_text(yaml.safe_dump(overlay(yaml.safe_load(path.read_text()), sections)))

    def keys(self) -> list[str]:
        return re.findall(r" ([0-9a-f]{12})  ", self.run("i2r", "plan"))

    def fetched(self) -> dict:
        return read_json(self.folder / "results/official/fetch/VOC2012/fetched.json")


def write_table(path: Path, address: str) -> None:
    """archives.csv for the generated files; the official server is not there, only the mirror."""
    table = served_table(FILES, address).values()
    rows = [asdict(archive) | {"contains": " ".join(archive.contains)} for archive in table]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(
            {name: "" if value is None else value for name, value in row.items()} for row in rows
        )


def clone(folder: Path, data: Path, server: Server) -> Clone:
    made = Clone(make_copy(folder).folder, data, server)
    write_table(folder / "archives.csv", "http://127.0.0.1:9")
    runtime = {"data_root": str(data), "archives": "archives.csv", "mirrors": [server.address]}
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"runtime": runtime}))
    return made


@pytest.fixture
def made(tmp_path: Path, server: Server) -> Clone:
    return clone(tmp_path / "clone", tmp_path / "data", server)


@pytest.mark.slow
def test_everything_from_nothing_and_altered_files_restored(made: Clone):
    before = made.keys()
    said = made.run("snakemake", "-n", "data")
    size = bytes_text(len(FILES["voc2012"]))
    assert f"voc2012: {VOC}, {size}, from {made.server.address}, then http://127.0.0.1:9/{VOC}\n" in said
    assert "in all " in said and "more when unpacked" in said and f"are free in {made.data}" in said
    assert not made.data.exists()
    made.run("snakemake", "data")
    found = made.fetched()
    assert set(found) == {"voc2012", "sbd", "sbd-train-noval"}
    assert all(len(line["sha256"]) == 64 and line["how"] == "published" for line in found.values())
    assert list(index_of(made)["train"]) == ["2008_000008", "2007_000032", "2007_000039"]
    assert made.keys() == before
    assert NOTHING in made.run("snakemake", "-n", "data")

    home, whole = made.data / "VOC2012", {}
    for name in (MASK, "JPEGImages/2007_000033.jpg", "SegmentationClassAug/2008_000008.png"):
        whole[name] = (home / name).read_bytes()
    (home / MASK).write_bytes(
        whole[MASK].replace(b"IEND", b"IENd")
    )  # of the same size; a link to the unpacked file
    (home / "JPEGImages/2007_000033.jpg").unlink()
    (home / "SegmentationClassAug/2008_000008.png").write_bytes(b"cut")
    assert "images, masks or lists have changed" in made.run("i2r", "plan")
    asked, index = len(made.server.asked), index_of(made)
    said = made.run("snakemake", "data")
    for name in whole:
        assert name in said
        assert (home / name).read_bytes() == whole[name]
    assert len(made.server.asked) == asked  # the archive was still there
    assert index_of(made) == index
    assert NOTHING in made.run("snakemake", "-n", "data")
    assert made.keys() == before


@pytest.mark.slow
def test_a_killed_download_goes_on(made: Clone):
    made.server.faults[VOC] = ["trickle"]
    process = subprocess.Popen(
        ["snakemake", "data"], cwd=made.folder, env=made.environment(), start_new_session=True
    )
    part = made.data / f"archives/{VOC}.part"
    wait_for(lambda: part.is_file() and part.stat().st_size > 20)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    made.run("i2r", "stage", "data")
    (again,) = [wanted for path, wanted in made.server.asked if path == VOC and wanted]
    assert int(again.removeprefix("bytes=").rstrip("-")) >= have
    assert made.fetched()["voc2012"]["how"] == "published"
    logs = [path.read_text() for path in (made.folder / "results/logs/fetch").glob("*.log")]
    assert any(re.search(rf"{VOC} .* 100% .*B/s in ", text) for text in logs)
    assert "nothing to do for data" in made.run("i2r", "stage", "data")


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_offline_stops_before_anything_starts_and_uses_what_people_placed(made: Clone):
    made.set(runtime={"offline": True})
    said = made.run("snakemake", "-n", "data")
    refused = made.run("snakemake", "data", code=1)
    by_stage = made.run("i2r", "stage", "data", code=1)
    table = served_table(FILES, "http://127.0.0.1:9")
    for text in (said, made.run("i2r", "plan"), refused, by_stage):
        for name in ("voc2012", "sbd", "sbd-train-noval", "resnet50-v2"):
            archive = table[name]
            size = "size not known" if archive.bytes is None else bytes_text(archive.bytes)
            assert (
                f"{name}: {archive.file} ({size}, {archive.checksum}) from {archive.url}: place it at "
                in text
            )
            assert f"place it at {archive.path(made.data)}" in text
    assert not made.data.exists() and not list(made.folder.glob("results/logs/*/*"))
    for name in ("voc2012", "sbd", "sbd-train-noval", "resnet50-v2"):
        path = table[name].path(made.data)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name])
    made.run("snakemake", "data")
    assert not made.server.asked
    assert NOTHING in made.run("snakemake", "-n", "data")


@pytest.mark.slow
def test_a_complete_folder_serves_a_second_clone_and_is_only_read(made: Clone, tmp_path: Path):
    made.run("snakemake", "data")
    asked, files = len(made.server.asked), times(made.data)
    other = clone(tmp_path / "other", made.data, made.server)
    assert " from http" not in other.run("snakemake", "-n", "data")
    other.run("snakemake", "data")
    assert len(made.server.asked) == asked and times(made.data) == files
    assert other.fetched() == made.fetched() and other.keys() == made.keys()
    # the archives may go once the data set is made
    for name in ("archives", "VOCdevkit", "benchmark_RELEASE", "lists"):
        shutil.rmtree(made.data / name)
    third = clone(tmp_path / "third", made.data, made.server)
    third.run("snakemake", "data")
    assert len(made.server.asked) == asked and third.keys() == made.keys()
    # results without the data, as after `dvc pull`: there is nothing to do until a job reads the data
    shutil.rmtree(made.data)
    assert NOTHING in third.run("snakemake", "-n", "data")
    third.set(evaluate={"episodes": 6})
    assert "fetch_job" not in third.run("snakemake", "-n", "data")
    assert f"voc2012: {VOC}" in third.run("snakemake", "-n", "train")
    third.set(data={"faulty": "leave_out"})
    assert f"voc2012: {VOC}" in third.run("snakemake", "-n", "data")
    third.run("snakemake", "data")
    assert len(made.server.asked) > asked
    assert len(list((third.folder / "results/store/data").iterdir())) == 2
    assert NOTHING in third.run("snakemake", "-n", "data")


def times(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if path.name != ".fetching.lock"}


@pytest.mark.slow
def test_a_folder_placed_by_hand_is_used_and_a_corrected_mask_is_indexed_again(made: Clone, tmp_path: Path):
    other = clone(tmp_path / "other", tmp_path / "theirs", made.server)
    other.run("snakemake", "data")
    home = made.data / "VOC2012"
    shutil.copytree(other.data / "VOC2012", home, ignore=shutil.ignore_patterns(".*", "lists"))
    assert f"{home} was placed by hand, but has no lists/train.txt" in made.run("snakemake", "data", code=1)
    shutil.copytree(other.data / "VOC2012/lists", home / "lists")
    asked = len(made.server.asked)
    made.run("i2r", "stage", "data")
    assert [path for path, _ in made.server.asked[asked:]] == ["resnet50-11ad3fa6.pth"]
    assert set(made.fetched()["sbd"].values()) == {"benchmark.tgz", "placed by hand"}
    before, keys = index_of(made), made.keys()
    assert before["digest"] == index_of(other)["digest"]
    shutil.copy(home / MASK.replace("32", "39"), home / MASK)
    corrected = (home / MASK).read_bytes()
    assert "2 again" in made.run("i2r", "plan")
    made.run("snakemake", "data")
    after = index_of(made)
    assert before["train"]["2007_000032"] != after["train"]["2007_000032"] == after["train"]["2007_000039"]
    assert (home / MASK).read_bytes() == corrected and made.keys() == keys
    made.run("i2r", "stage", "data")  # the lists follow
    assert "nothing to do for data" in made.run("i2r", "stage", "data")
    assert NOTHING in made.run("snakemake", "-n", "data")


def index_of(made: Clone) -> dict:
    return read_index(made.folder / "results/official/data/VOC2012/index.parquet")


@pytest.mark.slow
def test_altered_masks_of_coco_are_drawn_again_and_altered_weights_fetched_again(made: Clone):
    home = write_coco(made.data / "coco2014")
    made.set(data={"source": "coco"})
    made.run("snakemake", "data")
    assert [path for path, _ in made.server.asked] == ["resnet50-11ad3fa6.pth"]
    keys, mask = made.keys(), next((home / "masks").glob("*/*.png"))
    drawn, manifest = mask.read_bytes(), next(made.folder.glob("results/store/data/*/manifest.json"))
    mask.write_bytes(drawn[:-1] + bytes([drawn[-1] ^ 1]))
    assert "1 masks" in made.run("i2r", "plan")
    began = manifest.stat().st_mtime_ns
    made.run("snakemake", "data")
    assert mask.read_bytes() == drawn and manifest.stat().st_mtime_ns > began
    assert NOTHING in made.run("snakemake", "-n", "data") and made.keys() == keys

    weights = made.data / "weights/resnet50-11ad3fa6.pth"
    weights.write_bytes(b"others" + weights.read_bytes()[6:])
    assert "not a readable weights file" in made.run("snakemake", "backbone", code=1)
    assert weights.read_bytes() == FILES["resnet50-v2"] and len(made.server.asked) == 2


@pytest.mark.slow
def test_dvc_tracks_what_the_archives_were(made: Clone):
    (made.folder / ".gitignore").write_text((made.folder / ".gitignore").read_text() + "/archives.csv\n")
    made.run("git", "init", "-q")
    made.commit()
    made.run("dvc", "repro", "data")
    lock = yaml.safe_load((made.folder / "dvc.lock").read_text())["stages"]["data"]
    outs = {out["path"]: out for out in lock["outs"]}
    assert set(outs) == {f"results/official/{name}" for name in ("fetch", "data", "lists", "episodes")}
    assert outs["results/official/fetch"]["nfiles"] == 4  # two jobs, each with its manifest
    assert not any("images" in name or "JPEGImages" in name for name in outs)
    assert "up to date" in made.run("dvc", "status", "data")
