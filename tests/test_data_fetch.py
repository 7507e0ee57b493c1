"""Fetching the archives: every fault of a server or an archive ends right, or with a sentence that says what to do."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from official_archives import Server, contents, served_table, serving, tar, zipped

from i2r import cli
from i2r.data.fetch import Archive, FetchError, fetch, inspect, read_table, require, work
from i2r.data.fetch import download as downloading
from i2r.data.fetch.download import Patience
from i2r.data.fetch.lockfile import LOCK, read_lock
from i2r.data.fetch.stock import status_text
from i2r.data.fetch.table import mismatch
from i2r.data.fetch.unpack import DamagedError, unpack
from i2r.data.prepare import origins

ROOT = Path(__file__).parents[1]
QUICK = Patience(tries=4, wait=0.01, longest=0.02, connect=2, read=0.3, slowest=1000, window=0.4)
FILES = contents()
VOC, ANNOTATIONS = "VOCtrainval_11-May-2012.tar", "annotations_trainval2014.zip"


@dataclass
class Place:
    server: Server
    table: dict[str, Archive]
    root: Path

    def fetch(self, *names: str, **options: object) -> dict[str, Path]:
        return fetch(names, self.root, table=self.table, **{"patience": QUICK, **options})

    def left(self) -> list[str]:
        """Everything below the data folder that is not a finished file."""
        found = [path for mark in (".part", ".unpacking-", ".data-") for path in self.root.rglob(f"*{mark}*")]
        return sorted(str(path.relative_to(self.root)) for path in found)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        table = served_table(FILES, server.address)
        server.files = {archive.file: FILES[name] for name, archive in table.items()}
        yield Place(server, table, tmp_path / "data")


def snapshot(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != work.BUSY
    }


def test_table_has_the_known_archives():
    table = read_table()
    assert table["voc2012"].bytes == 1999639040
    assert table["voc2012"].checksum == "md5:6cd6e144f989b92b3379bac3b3de84fd"
    assert table["sbd"].checksum == "md5:82b4d87ceb2ed10f6038a1cba92111cb"
    assert table["sbd-train-noval"].checksum == "md5:79bff800c5f0b1ec6b21080a3c066722"
    for name in ("resnet50", "resnet50-v2", "resnet101", "resnet101-v2", "vgg16_bn", "squeezenet1_1"):
        archive = table[name]
        assert archive.checksum.removeprefix("sha256-prefix:") in archive.file  # torchvision's naming
    for archive in table.values():
        assert archive.licence and archive.version and archive.page and archive.place
        assert not archive.url or archive.url.endswith(f"/{archive.file}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("2012,1999639040", "2012,2 GB"), "line 2: bytes must be a number or empty, got '2 GB'"),
        (("md5:6cd6", "crc:6cd6"), "is no checksum such as md5:0123abcd"),
        (("\nsbd,", "\nvoc2012,"), "line 3: voc2012 is there twice"),
        (("name,file", "file,name"), "the columns must be name, file"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, change: tuple[str, str], sentence: str):
    text = (ROOT / "i2r/data/fetch/archives.csv").read_text()
    text = text.replace("voc2012/VOCtrainval_11-May-2012.tar,1999", "voc2012,1999")
    path = tmp_path / "archives.csv"
    path.write_text(text.replace(*change, 1))
    with pytest.raises(FetchError, match=sentence):
        read_table(path)
    with pytest.raises(FetchError, match="no such table of archives"):
        read_table(tmp_path / "none.csv")


def test_everything_is_fetched_in_the_official_layouts(place: Place):
    for name, archive in place.table.items():
        if not archive.url:
            archive.path(place.root).parent.mkdir(parents=True, exist_ok=True)
            archive.path(place.root).write_bytes(FILES[name])
    places = place.fetch(*place.table)
    assert list(places) == list(place.table)
    for name, inside in {
        "voc2012": "VOC2012/ImageSets/Segmentation/train.txt",
        "sbd": "dataset/cls/2008_000008.mat",
        "coco2014-train": "COCO_train2014_000000000009.jpg",
        "coco2014-annotations": "instances_val2014.json",
        "fss1000": "abacus/10.png",
    }.items():
        assert (places[name] / inside).is_file()
    assert places["coco2014-train"] == place.root / "coco2014/train2014"
    assert places["resnet50"].read_bytes() == FILES["resnet50"]
    assert not (place.root / "benchmark_RELEASE/._benchmark_RELEASE").exists()
    assert place.left() == []
    asked = len(place.server.asked)
    assert place.fetch(*place.table) == places
    assert len(place.server.asked) == asked  # a second time nothing is asked for


def test_what_was_fetched_can_be_prepared(place: Place):
    places = place.fetch("voc2012", "sbd", "sbd-train-noval")
    found = origins(places["voc2012"], places["sbd"])
    assert found.voc == places["voc2012"] / "VOC2012" and found.sbd == places["sbd"] / "dataset"
    assert found.train_noval == places["sbd-train-noval"]


# --- faults of the server -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "faults"),
    [
        *(
            ("voc2012", [fault])
            for fault in ("cut", "stall", "trickle", "wrong bytes", "hang up", "no length")
        ),
        *(("coco2014-annotations", [fault]) for fault in ("cut", "wrong bytes", "no length, cut")),
        ("voc2012", ["cut", "cut", "cut"]),
        ("voc2012", ["503", "503", "429"]),
        ("voc2012", ["cut", "no range"]),
        ("voc2012", ["cut", "wrong bytes"]),
        ("voc2012", ["no length, cut"]),
        ("sbd-train-noval", ["500"]),
        # of a size that is learned from the server
        ("vgg16_bn", ["claims more"]),
        ("vgg16_bn", ["claims less"]),
        ("vgg16_bn", ["login page"]),
    ],
)
def test_a_passing_fault_does_no_harm(place: Place, name: str, faults: list[str]):
    archive = place.table[name]
    place.server.faults[archive.file] = list(faults)
    place.fetch(name)
    assert place.server.faults[archive.file] == []
    assert archive.path(place.root).read_bytes() == FILES[name]
    assert inspect(archive, place.root, content=True).kind == "ready"
    assert place.left() == []


def test_a_cut_download_goes_on_where_it_was_cut(place: Place):
    place.server.faults[VOC] = ["cut"]
    place.fetch("voc2012")
    assert place.server.asked == [(VOC, None), (VOC, f"bytes={len(FILES['voc2012']) // 2}-")]


@pytest.mark.parametrize(
    ("name", "fault", "sentence"),
    [
        ("voc2012", "cut", r"tar: cut after \d+ of \d+ bytes, at 4 tries"),
        ("voc2012", "stall", "tar: nothing arrived for 0 s, at 4 tries"),
        ("voc2012", "trickle", r"tar: only \d+ bytes/s arrive, at 4 tries"),
        ("voc2012", "wrong bytes", "tar: the file md5 is [0-9a-f]{32}, must be [0-9a-f]{32} .published"),
        (
            "voc2012",
            "claims more",
            "the server has [0-9]+ bytes, the file must have [0-9]+; it is another file",
        ),
        (
            "voc2012",
            "claims less",
            "the server has [0-9]+ bytes, the file must have [0-9]+; it is another file",
        ),
        ("voc2012", "login page", "the server has 520 bytes, the file must have [0-9]+; it is another file"),
        ("voc2012", "404", "tar: the server answers 404 Not Found"),
        ("voc2012", "503", "tar: the server answers 503 Service Unavailable, at 4 tries"),
        ("voc2012", "loop", "tar: redirects without end"),
        ("voc2012", "hang up", "tar: no connection: .*, at 4 tries"),
        (
            "vgg16_bn",
            "login page",
            "pth: the file sha256-prefix is [0-9a-f]{8}, must be [0-9a-f]{8} .published",
        ),
        ("coco2014-annotations", "wrong bytes", "annotations_trainval2014.zip: damaged: .*CRC"),
    ],
)
def test_a_lasting_fault_ends_with_its_sentence(place: Place, name: str, fault: str, sentence: str):
    archive = place.table[name]
    place.server.faults[archive.file], place.server.stuck = [fault], True
    with pytest.raises(FetchError, match=sentence) as error:
        place.fetch(name)
    assert not archive.made(place.root).exists()
    kept = fault in ("cut", "stall", "trickle")
    assert kept == ("is kept, and the next run goes on from it" in str(error.value)) == (place.left() != [])
    place.server.faults.clear()
    place.fetch(name)
    assert inspect(archive, place.root, content=True).kind == "ready"
    assert place.left() == []


def test_a_server_that_is_not_there(place: Place):
    table = {"voc2012": replace(place.table["voc2012"], url="http://127.0.0.1:9/x.tar")}
    with pytest.raises(FetchError, match=r"127.0.0.1:9/x.tar: no connection: .*refused.*, at 4 tries"):
        fetch(["voc2012"], place.root, table=table, patience=QUICK)


def test_a_file_without_checksum_is_never_continued_from_another_version(place: Place):
    place.table["coco2014-annotations"] = replace(place.table["coco2014-annotations"], bytes=None)
    place.server.faults[ANNOTATIONS], place.server.stuck = ["cut"], True
    with pytest.raises(FetchError, match="cut after"):
        place.fetch("coco2014-annotations", patience=replace(QUICK, tries=1))
    place.server.etag, place.server.faults[ANNOTATIONS] = '"2"', []  # replaced by another file meanwhile
    place.server.files[ANNOTATIONS] = zipped({"annotations/instances_val2014.json": os.urandom(5000)})
    place.fetch("coco2014-annotations")
    assert place.server.asked[-1][1] is not None  # asked to go on, and got the whole file
    assert (place.root / "archives" / ANNOTATIONS).read_bytes() == place.server.files[ANNOTATIONS]


def test_mirrors_are_asked_first_and_the_official_server_after_them(place: Place):
    with serving() as mirror:
        mirror.files = {VOC: FILES["voc2012"], "benchmark.tgz": FILES["sbd"][:-9] + bytes(9)}
        place.fetch("voc2012", "sbd", "sbd-train-noval", mirrors=[f"{mirror.address}/"])
        assert [name for name, _ in mirror.asked] == [
            VOC,
            "benchmark.tgz",
            "benchmark.tgz",
            "train_noval.txt",
        ]
    assert [name for name, _ in place.server.asked] == ["benchmark.tgz", "train_noval.txt"]


def test_too_little_space_is_said_before_anything_starts(place: Place, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(place.root.parent)
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: usage._replace(free=2**26 + 1000))
    with pytest.raises(
        FetchError, match=r"67.1 MB are free, but this \(.* to download, about .*unpacked\) needs"
    ):
        place.fetch("voc2012")
    assert place.server.asked == []
    with pytest.raises(FetchError, match=r"67.1 MB are free, but vgg16_bn-6c64b313.pth.part needs 9.5 kB"):
        place.fetch("vgg16_bn")  # the server says the size


def test_a_full_disk_is_named(place: Place, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloading.os, "fsync", full)
    with pytest.raises(FetchError, match="the disk is full; free some space, then run again"):
        place.fetch("voc2012")


# --- checksums and data.lock ----------------------------------------------------------------------------------------
def test_first_download_is_trusted_and_later_ones_must_be_the_same(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    place.fetch("coco2014-annotations", "voc2012")
    assert "no checksum is published, so this first download is trusted" in capsys.readouterr().err
    locked = read_lock(place.root)
    assert locked[ANNOTATIONS].how == "first download" and locked[VOC].how == "published"
    assert mismatch(place.root / "archives" / ANNOTATIONS, f"sha256:{locked[ANNOTATIONS].sha256}") == ""
    assert "trust" not in capsys.readouterr().err
    other = tmp_path / "other"  # another machine, with a copy of data.lock, and a server with another file
    other.mkdir()
    shutil.copy(place.root / LOCK, other / LOCK)
    content = zipped(
        {"annotations/instances_train2014.json": b"{}", "annotations/instances_val2014.json": b"{}"}
    )
    table = {"a": replace(place.table["coco2014-annotations"], name="a", bytes=None)}
    place.server.files[ANNOTATIONS] = content
    with pytest.raises(FetchError, match=r"the server has \d+ bytes(.|\n)*delete its line in .*data.lock"):
        fetch(["a"], other, table=table, patience=QUICK)
    place.server.files[ANNOTATIONS] = FILES["coco2014-annotations"][:-1] + b"!"
    with pytest.raises(FetchError, match=r"sha256 is .*, must be .* \(data.lock\)"):
        fetch(["a"], other, table=table, patience=QUICK)
    assert not (other / "coco2014").exists()


def test_lock_is_text_that_says_how_each_file_was_checked(place: Place):
    place.fetch("coco2014-annotations", "resnet50")
    lines = (place.root / LOCK).read_text().splitlines()
    assert lines[0].startswith("# Written by `i2r data fetch`")
    assert [line.split(maxsplit=3)[2:] for line in lines if not line.startswith("#")] == [
        [ANNOTATIONS, "first download"],
        ["resnet50-0676ba61.pth", "published"],
    ]
    (place.root / LOCK).write_text("12 abc file\n")
    with pytest.raises(FetchError, match=r"data.lock, line 1: not `bytes sha256 file how`"):
        place.fetch("voc2012")


def test_an_altered_or_cut_archive_is_found_and_fetched_again(
    place: Place, capsys: pytest.CaptureFixture[str]
):
    archive = place.table["voc2012"]
    for content in (FILES["voc2012"][:-1], FILES["voc2012"][:-700] + bytes(700 - 9) + b"altered!!"):
        shutil.rmtree(place.root, ignore_errors=True)
        archive.path(place.root).parent.mkdir(parents=True)
        archive.path(place.root).write_bytes(content)
        with pytest.raises(FetchError, match=r"VOCtrainval_11-May-2012.tar (has|md5 is)"):
            place.fetch("voc2012", offline=True)
        place.fetch("voc2012")
        assert "fetched again" in capsys.readouterr().err
        assert archive.path(place.root).read_bytes() == FILES["voc2012"]


def test_altered_unpacked_files_are_named_and_made_again(place: Place, capsys: pytest.CaptureFixture[str]):
    made = place.fetch("voc2012")["voc2012"]
    good = snapshot(place.root)
    images = sorted((made / "VOC2012/JPEGImages").iterdir())
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:-5])
    own = made / "VOC2012/SegmentationClassAug/own.png"
    own.parent.mkdir()
    own.write_bytes(b"added by a user")
    state = inspect(place.table["voc2012"], place.root)
    assert state.kind == "damaged" and images[0].name in state.note and images[1].name in state.note
    place.fetch("voc2012")
    assert "2 missing or altered" in capsys.readouterr().err
    images[1].write_bytes(images[1].read_bytes()[:-5] + b"wrong")  # of the same size
    place.fetch("voc2012")
    assert inspect(place.table["voc2012"], place.root, content=True).kind == "damaged"
    place.table["voc2012"].path(place.root).unlink()  # to save space
    place.fetch("voc2012", content=True)
    assert own.read_bytes() == b"added by a user"
    own.unlink()
    assert snapshot(place.root) == good
    assert place.left() == []


def test_an_archive_may_be_removed_when_it_is_unpacked(place: Place):
    place.fetch("voc2012")
    place.table["voc2012"].path(place.root).unlink()
    asked = len(place.server.asked)
    place.fetch("voc2012", offline=True)
    assert len(place.server.asked) == asked


# --- offline, by hand, status ---------------------------------------------------------------------------------------
def test_offline_names_every_missing_thing_with_size_and_place(place: Place):
    for refuse in (
        lambda: place.fetch("voc2012", "sbd-train-noval", "coco2014-train", offline=True),
        lambda: require(["voc2012", "sbd-train-noval", "coco2014-train"], place.root, table=place.table),
    ):
        with pytest.raises(FetchError) as error:
            refuse()
        text = str(error.value)
        for name in ("voc2012", "sbd-train-noval", "coco2014-train"):
            archive = place.table[name]
            line = next(line for line in text.splitlines() if line.strip().startswith(f"{name}:"))
            assert archive.file in line and archive.url in line
            assert f"place it at {archive.path(place.root)}" in line
            assert "kB" in line or archive.bytes is None
    assert place.server.asked == [] and not place.root.exists()


def test_offline_uses_what_was_placed_by_hand(place: Place):
    archive = place.table["voc2012"]
    archive.path(place.root).parent.mkdir(parents=True)
    archive.path(place.root).write_bytes(FILES["voc2012"])
    made = archive.made(place.root)
    assert inspect(archive, place.root).kind == "packed"
    require(["voc2012"], place.root, table=place.table)
    assert place.fetch("voc2012", offline=True) == {"voc2012": made}
    (made / ".files.txt").unlink()  # as if a person had unpacked it
    assert inspect(archive, place.root).note == "placed by hand"
    shutil.rmtree(made / "VOC2012/JPEGImages")
    with pytest.raises(FetchError, match="was placed by hand, but has no VOC2012/JPEGImages"):
        place.fetch("voc2012")
    assert (made / "VOC2012/SegmentationClass").is_dir()  # what a person placed is not touched
    assert place.server.asked == []


def test_what_has_no_url_has_to_be_placed_by_hand(place: Place):
    with pytest.raises(
        FetchError, match=r"by hand:\n  fss1000: fewshot_data.zip .* place it at .*/archives/"
    ):
        place.fetch("voc2012", "fss1000")
    assert place.server.asked == []  # said before anything was downloaded


def test_status_says_what_is_there_missing_and_how_large(place: Place):
    place.fetch("sbd", "sbd-train-noval")
    place.server.faults[VOC], place.server.stuck = ["cut"], True
    with pytest.raises(FetchError):
        place.fetch("voc2012", patience=replace(QUICK, tries=1))
    before = snapshot(place.root)
    text = status_text([], place.root, table=place.table)
    lines = {line.split()[0]: line for line in text.splitlines() if line[:1].isalpha()}
    assert "ready" in lines["sbd"] and "part" in lines["voc2012"] and "missing" in lines["resnet50"]
    assert "have arrived" in lines["voc2012"]
    sizes = {name: archive.bytes for name, archive in place.table.items()}
    left = sizes["voc2012"] - len(FILES["voc2012"]) // 2
    left += sum(
        sizes[name] or 0 for name in ("coco2014-train", "coco2014-val", "coco2014-annotations", "resnet50")
    )
    unknown = "resnet50-v2, resnet101, resnet101-v2, vgg16_bn, squeezenet1_1"
    assert f"to fetch: 10 files, {left / 1000:.1f} kB and {unknown} (size not known)" in text
    assert f"place it at {place.root}/archives/fewshot_data.zip" in text
    assert snapshot(place.root) == before


# --- killed, together, read-only ------------------------------------------------------------------------------------
def _child(place: Place, names: tuple[str, ...], last: int) -> int:
    """Fetch in a child process that dies before its event number `last` on files; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        seen = 0

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event.startswith(("os.", "shutil.")) or (
                event == "open" and str(place.root) in str(arguments[0])
            ):
                seen += 1
                if seen == last:
                    os._exit(9)

        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.addaudithook(count)
        place.fetch(*names)
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_killed_at_any_moment_the_next_run_goes_on(place: Place):
    names = ("coco2014-val", "sbd-train-noval")
    place.fetch(*names)
    good = snapshot(place.root)
    moments = 0
    while True:
        shutil.rmtree(place.root)
        code = _child(place, names, moments + 1)
        if code == 0:
            break
        assert code == 9
        assert all(
            inspect(place.table[name], place.root, content=True).kind != "damaged" for name in names
        ), f"a final name was half-made at moment {moments}"
        place.fetch(*names)
        assert snapshot(place.root) == good, f"killed at moment {moments}"
        moments += 1
    assert moments > 30


def test_a_killed_process_goes_on_from_what_has_arrived(place: Place):
    place.server.faults[VOC] = ["trickle"]
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        place.fetch("voc2012", patience=Patience())
        os._exit(0)
    part = place.root / "archives" / f"{VOC}.part"
    while not part.is_file() or not part.stat().st_size:
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    arrived = part.stat().st_size
    place.fetch("voc2012")
    assert place.server.asked[-1] == (VOC, f"bytes={arrived}-")
    assert inspect(place.table["voc2012"], place.root, content=True).kind == "ready"
    assert place.left() == []


def test_processes_wait_for_each_other(place: Place, capfd: pytest.CaptureFixture[str]):
    place.server.faults[VOC] = ["trickle"]
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            try:
                found = place.fetch("voc2012", patience=replace(QUICK, read=5, window=1.0))
                os._exit(0 if found == {"voc2012": place.root / "VOCdevkit"} else 1)
            except BaseException:
                os._exit(2)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert capfd.readouterr().err.count("another process is fetching into") == 2
    assert len([name for name, wanted in place.server.asked if wanted is None]) == 1
    assert place.left() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to change the user")
def test_a_complete_folder_may_be_read_only(place: Place):
    places = place.fetch("voc2012", "resnet50")
    before = {path: path.stat().st_mtime_ns for path in place.root.rglob("*")}

    def as_nobody(*names: str) -> int:
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            os.chdir(place.root)  # folders above it are closed to other users
            here = replace(place, root=Path())
            os.setuid(65534)
            found = here.fetch(*names)
            os._exit(0 if {name: place.root / path for name, path in found.items()} == places else 1)
        except FetchError as error:
            os._exit(2 if "cannot be written" in str(error) and "not complete" in str(error) else 3)
        except BaseException:
            os._exit(4)

    place.root.chmod(0o755)
    assert as_nobody("voc2012", "resnet50") == 0
    assert as_nobody("sbd") == 2
    assert {path: path.stat().st_mtime_ns for path in place.root.rglob("*")} == before


# --- hostile archives -----------------------------------------------------------------------------------------------
def _tar_with(change: Callable[[tarfile.TarInfo], None]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for info in (tarfile.TarInfo("top/good"), tarfile.TarInfo("top/bad")):
            if info.name == "top/bad":
                change(info)
            info.size = 4 if info.isreg() else 0
            archive.addfile(info, io.BytesIO(b"text"))
    return file.getvalue()


def _special(kind: bytes, link: str = "") -> bytes:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = kind, link

    return _tar_with(change)


def _named(name: str) -> bytes:
    return _tar_with(lambda info: setattr(info, "name", name))


def _zip_of(*files: tuple[str, bytes], mode: int = 0) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return file.getvalue()


def _bomb(kind: str) -> bytes:
    zeros = bytes(2**20 * 80)
    return zipped({"top/zeros": zeros}) if kind == "zip" else tar({"top/zeros": zeros}, "w:gz")


HOSTILE = {
    "tar ..": (lambda: _named("top/../../evil"), "leads out of the folder"),
    "tar absolute": (lambda: _named("/tmp/evil"), "is an absolute path"),
    "tar backslash": (lambda: _named("top\\..\\evil"), "has characters that a name must not have"),
    "tar symlink": (lambda: _special(tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    "tar hardlink": (lambda: _special(tarfile.LNKTYPE, "top/good"), "is a link"),
    "tar device": (lambda: _special(tarfile.CHRTYPE), "is a device"),
    "tar fifo": (lambda: _special(tarfile.FIFOTYPE), "is a device"),
    "tar duplicate": (lambda: _named("top/good"), "is there twice"),
    "tar duplicate by ./": (lambda: _named("./top//good"), "is there twice"),
    "tar duplicate by case": (lambda: _named("top/GOOD"), "is there twice"),
    "tar file as folder": (lambda: _named("top/good/bad"), "both as a file and as a folder"),
    "tar bomb": (lambda: _bomb("tar"), "refused: .* unpack to more than 67.1 MB"),
    "tar many": (lambda: tar({f"top/{i}": b"" for i in range(100_000)}), "more than 90000 files"),
    "zip ..": (lambda: _zip_of(("../evil", b"x")), "leads out of the folder"),
    "zip absolute": (lambda: _zip_of(("/tmp/evil", b"x")), "is an absolute path"),
    "zip drive": (lambda: _zip_of(("C:/evil", b"x")), "is an absolute path"),
    "zip symlink": (lambda: _zip_of(("top/a", b"/etc/passwd"), mode=0o120777), "is a link"),
    "zip device": (lambda: _zip_of(("top/a", b""), mode=0o020666), "is a device"),
    "zip duplicate": (lambda: _zip_of(("top/a", b"1"), ("top/a", b"2")), "is there twice"),
    "zip bomb": (lambda: _bomb("zip"), "refused: .* unpack to more than 67.1 MB"),
    "zip many": (lambda: _zip_of(*((f"top/{i}", b"") for i in range(100_000))), "more than 90000 files"),
    "other folder": (lambda: zipped({"other/a": b"x"}), "has no files in a folder top/"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind == "tar many" else []) for kind in HOSTILE]
)
def test_hostile_archives_are_refused(place: Place, kind: str):
    make, sentence = HOSTILE[kind]
    file = "hostile.zip" if kind.startswith("zip") else "hostile.tar"
    place.server.files[file] = make()
    values = {"name": "h", "file": file, "url": f"{place.server.address}/{file}", "top": "top", "place": "h"}
    table = {"h": replace(place.table["coco2014-train"], bytes=None, **values)}
    with pytest.raises(FetchError, match=sentence):
        fetch(["h"], place.root, table=table, patience=QUICK)
    assert sorted(path.name for path in place.root.iterdir()) == [work.BUSY, "archives"]
    assert sorted(path.name for path in place.root.parent.iterdir()) == ["data"]
    assert read_lock(place.root) == {}  # what is refused is not trusted


@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_cut_and_altered_archives_are_damaged(tmp_path: Path, kind: str):
    files = {f"top/{i}": os.urandom(5000) for i in range(5)}
    whole = zipped(files) if kind == "zip" else tar(files, "w:gz" if kind == "tgz" else "w")
    path = tmp_path / "archive"
    path.write_bytes(whole)
    assert unpack(path, "top", tmp_path / "good", "") == 5
    broken = [whole[: len(whole) // 2], b"<html>", b""]
    if kind != "tar":  # a plain tar has no checksum of its content
        broken.append(whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:])
    for i, content in enumerate(broken):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match="damaged"):
            unpack(path, "top", tmp_path / f"bad{i}", "")


# --- the commands ---------------------------------------------------------------------------------------------------
def test_commands(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("i2r.data.fetch.work.read_table", lambda: place.table)
    monkeypatch.setattr("i2r.data.fetch.stock.read_table", lambda: place.table)
    handler = signal.getsignal(signal.SIGTERM)
    root = ["--data-root", str(place.root)]
    try:
        cli.main(["data", "fetch", "voc2012", "resnet50", *root])
        assert f"voc2012: {place.root}/VOCdevkit" in capsys.readouterr().out
        cli.main(["data", "status", *root])
        assert "free in" in capsys.readouterr().out
        for command, sentence in {
            ("fetch",): "name what to fetch, or use --all; there are voc2012, sbd",
            ("fetch", "voc2007"): "voc2007: no such archive; there are voc2012, sbd",
            ("fetch", "sbd", "--offline"): "offline, and not there:\n  sbd: benchmark.tgz",
            ("status", "voc2007"): "voc2007: no such archive",
        }.items():
            with pytest.raises(SystemExit):
                cli.main(["data", *command, *root])
            assert f"{sentence}" in capsys.readouterr().err
    finally:
        signal.signal(signal.SIGTERM, handler)
