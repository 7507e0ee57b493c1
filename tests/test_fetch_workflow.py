"""Official data as a part of the pipeline: archives in the official layouts, from a server on this machine."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import yaml
from conftest import Toy, make_copy
from official_archives import Server, contents, served_table, serving

from i2r.config.load import overlay
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
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as found:
        found.files = {archive.file: FILES[name] for name, archive in served_table(FILES, "").items()}
        yield found


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
    index = read_json(made.folder / "results/official/data/VOC2012/index.json")
    assert list(index["train"]) == ["2008_000008", "2007_000032", "2007_000039"]
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
    asked, key = (
        len(made.server.asked),
        read_json(made.folder / "results/official/data/VOC2012/manifest.json"),
    )
    said = made.run("snakemake", "data")
    for name in whole:
        assert name in said
        assert (home / name).read_bytes() == whole[name]
    assert len(made.server.asked) == asked  # the archive was still there
    assert read_json(made.folder / "results/official/data/VOC2012/manifest.json") == key  # not indexed again
    assert NOTHING in made.run("snakemake", "-n", "data")
    assert made.keys() == before
