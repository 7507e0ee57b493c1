"""Unpacking of tar and zip archives that are not trusted.

Everything that can write outside of the folder or fill the disk is refused: absolute paths, `..`, links, devices,
names that mean one file twice, too many files, and far more bytes than the archive has.
"""

from __future__ import annotations

import gzip
import lzma
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from i2r.data.fetch.download import disk_errors
from i2r.data.fetch.table import FetchError
from i2r.files import write_text
from i2r.progress import Progress, bytes_text

MOST_FILES = 90_000  # COCO's train2014.zip has the most: 82,783
MOST_RATIO = 20  # unpacked bytes for each byte of the archive; COCO's annotations have about 4
LEAST_LIMIT = 2**26  # so that a small text archive is not taken for a bomb
LISTING = ".files.txt"  # in an unpacked folder: size, crc32 and path of each file
CHUNK = 2**20
# What tarfile, zipfile and the decompressors raise for a damaged archive; NotImplementedError: a method of
# compression that zipfile does not know.
BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, NotImplementedError, ValueError),
)
T = TypeVar("T")


class DamagedError(FetchError):
    """An archive that is cut or altered."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    kind: str  # "file", "folder", or what it is instead
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, top: str, folder: Path, source: str) -> int:
    """Unpack what is below the folder `top` of an archive into the new `folder`, with a listing of its files.

    Args:
        source: text for the head of the listing, which says from what the files were unpacked.

    Returns:
        the number of files.

    Raises:
        FetchError: the archive is refused, or has no folder `top`, or the disk is full.
        DamagedError: it is cut or altered.
    """
    count = _check(archive)
    lines = []
    with Progress(f"unpack {archive.name}", count, "file") as progress:
        for member in _members(archive):
            path = PurePosixPath(member.name)
            if member.kind == "file" and path != PurePosixPath(top) and path.is_relative_to(top):
                inside = path.relative_to(top)
                crc = _write(archive, member, folder / inside)
                lines.append(f"{member.size} {crc:08x} {inside}\n")
            progress.update()
    if not lines:
        raise FetchError(f"{archive}: has no files in a folder {top}/, so it is another archive")
    _write_listing(folder, source, lines)
    return len(lines)


def list_files(folder: Path, source: str) -> None:
    """Write the listing of a folder that was made from unpacked ones.

    Args:
        source: as for `unpack`.

    Raises:
        FetchError: the disk is full.
    """
    names = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LISTING)
    lines = []
    with Progress(f"list {folder.name}", len(names), "file") as progress:
        for path in names:
            lines.append(f"{path.stat().st_size} {crc32(path):08x} {path.relative_to(folder).as_posix()}\n")
            progress.update()
    _write_listing(folder, source, lines)


def _write_listing(folder: Path, source: str, lines: list[str]) -> None:
    with disk_errors(folder):
        write_text(folder / LISTING, f"# {source}\n# bytes, crc32, path\n" + "".join(lines))


def source_of(folder: Path) -> str | None:
    """What an unpacked folder was unpacked from; None if it has no listing: then it was placed by hand."""
    listing = folder / LISTING
    if not listing.is_file():
        return None
    with listing.open(encoding="utf-8", errors="replace") as file:
        return file.readline().removeprefix("# ").rstrip("\n")


def bad_files(folder: Path, *, content: bool = False) -> list[str]:
    """The files of an unpacked folder that are missing or have another size; with `content`, another content."""
    bad = []
    for size, crc, name in _listed(folder):
        try:
            found = (folder / name).lstat()
        except OSError:
            bad.append(name)
            continue
        if (
            not stat.S_ISREG(found.st_mode)
            or found.st_size != size
            or (content and crc32(folder / name) != crc)
        ):
            bad.append(name)
    return bad


def repair(new: Path, folder: Path) -> None:
    """Move each file of the freshly unpacked `new` to `folder` where it is missing or differs there.

    Nothing else in `folder` is touched: people may have added files.
    """
    for _, crc, name in _listed(new):
        target = folder / name
        if target.is_symlink() or not target.is_file() or crc32(target) != crc:
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                (new / name).replace(target)
    (new / LISTING).replace(folder / LISTING)


def _listed(folder: Path) -> Iterator[tuple[int, int, str]]:
    """Bytes, crc32 and path of each file of the listing."""
    for line in (folder / LISTING).read_text(encoding="utf-8", errors="replace").split("\n")[2:-1]:
        size, crc, name = line.split(" ", maxsplit=2)
        yield int(size), int(crc, 16), name


def crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _check(archive: Path) -> int:
    """Look at every member before anything is written; how many there are.

    Raises:
        FetchError: the archive is refused.
    """
    size = archive.stat().st_size
    limit = max(MOST_RATIO * size, LEAST_LIMIT)
    names, total = _Names(archive), 0
    for member in _members(archive):
        names.add(member)
        total += member.size
        if total > limit:
            raise FetchError(
                f"{archive}: refused: {bytes_text(size)} unpack to more than {bytes_text(limit)}"
            )
    return names.count


class _Names:
    """The names in an archive, checked one after the other."""

    def __init__(self, archive: Path):
        self.archive, self.count = archive, 0
        self.files: set[str] = set()
        self.folders: set[str] = set()

    def add(self, member: _Member) -> None:
        """Check a member.

        Raises:
            FetchError: the member is refused.
        """
        self.count += 1
        if self.count > MOST_FILES:
            raise self._refused(f"it has more than {MOST_FILES} files")
        name, shown = member.name, ascii(member.name)[:200]
        if member.kind not in ("file", "folder"):
            raise self._refused(f"{shown} is a {member.kind}")
        if name.startswith("/") or re.match("[A-Za-z]:", name):
            raise self._refused(f"{shown} is an absolute path")
        if "\\" in name or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
            raise self._refused(f"{shown} has characters that a name must not have")
        path = PurePosixPath(name)
        if ".." in path.parts:
            raise self._refused(f"{shown} leads out of the folder")
        if len(name) > 1000 or any(len(part.encode()) > 255 for part in path.parts):
            raise self._refused(f"{shown} is too long")
        # some file systems do not tell A from a, or two spellings of é
        key = unicodedata.normalize("NFC", str(path)).casefold()
        above = {str(parent) for parent in PurePosixPath(key).parents}
        if member.kind == "file" and (key in self.files or key in self.folders or key == "."):
            raise self._refused(f"{shown} is there twice")
        if not above.isdisjoint(self.files) or key in self.files:
            raise self._refused(f"{shown} is there both as a file and as a folder")
        self.folders |= above
        (self.files if member.kind == "file" else self.folders).add(key)

    def _refused(self, why: str) -> FetchError:
        return FetchError(f"{self.archive}: refused: {why}")


def _write(archive: Path, member: _Member, path: Path) -> int:
    """Write a member; its crc32."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    crc = written = 0
    with file, closing(_reading(archive, member.open)) as source:
        while chunk := _reading(archive, lambda: source.read(CHUNK)):
            crc, written = zlib.crc32(chunk, crc), written + len(chunk)
            if written > member.size:
                break
            with disk_errors(path):
                file.write(chunk)
        with disk_errors(path):
            file.flush()
    if written != member.size:
        raise DamagedError(f"{archive}: damaged: {member.name} has not the size that the archive states")
    return crc


def _reading(archive: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except BROKEN as error:
        raise DamagedError(f"{archive}: damaged: {error or type(error).__name__}") from None


def _members(archive: Path) -> Iterator[_Member]:
    if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
        with _reading(archive, lambda: zipfile.ZipFile(archive)) as opened:
            yield from _zip_members(archive, opened)
        return
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    # gzip compares the checksum at the end, which tarfile does not when it decompresses
    with gzip.open(archive) if packed else archive.open("rb") as file:
        with _reading(archive, lambda: tarfile.open(fileobj=file, mode="r:")) as opened:
            yield from _tar_members(archive, opened)
        while packed and _reading(archive, lambda: file.read(CHUNK)):
            pass


def _zip_members(archive: Path, opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        mode = info.external_attr >> 16
        kind = _kind(mode) if stat.S_IFMT(mode) else "folder" if info.is_dir() else "file"
        if info.flag_bits & 1:
            raise FetchError(f"{archive}: refused: {info.filename!a} is encrypted")
        yield _Member(info.orig_filename, info.file_size, kind, lambda info=info: opened.open(info))


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "device"


def _tar_members(archive: Path, opened: tarfile.TarFile) -> Iterator[_Member]:
    while (info := _reading(archive, opened.next)) is not None:
        opened.members = []  # each is used once; tarfile would keep them all
        if info.issparse():
            kind = "sparse file"
        elif info.isreg():
            kind = "file"
        elif info.isdir():
            kind = "folder"
        else:
            kind = "link" if info.issym() or info.islnk() else "device"
        yield _Member(info.name, info.size, kind, lambda info=info: opened.extractfile(info))
