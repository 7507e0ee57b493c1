"""data.lock: what the files of the data folder were when they were first seen (trust on first use).

Text with one file per line: size, sha256, name and how it was checked. Where the publisher states a checksum, that was
compared; where not, the first download is believed, and every later one, on this machine or on another that has got a
copy of data.lock, must have the same content.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from i2r.data.fetch.table import Archive, FetchError, mismatch
from i2r.files import sha256, write_text

LOCK = "data.lock"
HEAD = """\
# Written by `i2r data fetch`: bytes, sha256, file, and what the file was compared with when it was first seen.
# "published": with the checksum of the publisher, or the part of it that is known. "first download": with nothing, as
# none is published; from then on the file must be this one. Delete a line to accept another file.
"""
PUBLISHED, FIRST = "published", "first download"


@dataclass(frozen=True)
class Locked:
    bytes: int
    sha256: str
    how: str


def read_lock(root: Path) -> dict[str, Locked]:
    """The lines of data.lock by file name; empty if there is no such file.

    Raises:
        FetchError: a line cannot be read.
    """
    path = root / LOCK
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split(maxsplit=3)
        if (
            len(parts) != 4
            or not parts[0].isdecimal()
            or len(parts[1]) != 64
            or set(parts[1]) - set("0123456789abcdef")
        ):
            raise FetchError(
                f"{path}, line {number}: not `bytes sha256 file how`; restore the file, or delete the line"
            )
        found[parts[2]] = Locked(int(parts[0]), parts[1], parts[3])
    return found


def lock(root: Path, archive: Archive, path: Path) -> str:
    """Add a checked file to data.lock, unless it is there; what people should know about it."""
    lines = read_lock(root)
    if archive.file in lines:
        return ""
    how = PUBLISHED if archive.checksum else FIRST
    lines[archive.file] = Locked(path.stat().st_size, sha256(path), how)
    text = "".join(
        f"{line.bytes:>12} {line.sha256} {file} {line.how}\n" for file, line in sorted(lines.items())
    )
    write_text(root / LOCK, HEAD + text)
    if how == PUBLISHED:
        return ""
    return (
        f"{archive.file}: no checksum is published, so this first download is trusted; its sha256 "
        f"{lines[archive.file].sha256} is now in {root / LOCK}, and later downloads must have it"
    )


def problem(root: Path, archive: Archive, path: Path, *, content: bool = True) -> str:
    """Why a file is not what the table and data.lock say; empty if it is. Without `content`, only its size is read."""
    line = read_lock(root).get(archive.file)
    size = path.stat().st_size
    for expected, source in ((archive.bytes, "the table"), (line.bytes if line else None, LOCK)):
        if expected not in (None, size):
            return f"has {size} bytes, must have {expected} ({source})"
    if not content:
        return ""
    if line:
        found = mismatch(path, f"sha256:{line.sha256}")
        if found:
            return f"{found} ({LOCK})"
    if archive.checksum:
        found = mismatch(path, archive.checksum)
        if found:
            return f"{found} (published)"
    return ""
