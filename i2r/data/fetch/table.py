"""The table of archives, archives.csv: what can be fetched, from where, and what it must be.

One line for each archive:

- `name`: what people type.
- `file`, `url`: the official file; without a URL, the file has to be placed by hand.
- `bytes`: its size; empty where it is learned from the server.
- `checksum`: `md5:HEX`, `sha256:HEX` or `sha256-prefix:HEX` (torchvision puts the start of the sha256 into the name);
  empty where the publisher states none. Then data.lock remembers the first download.
- `top`: the folder in the archive that is kept; empty for a file that is not unpacked.
- `place`: the path below the data folder where that folder (or the file) goes.
- `contains`: paths below `place`, separated by spaces, without which a folder placed by hand is not accepted.
- `licence`, `version`, `page`: for people.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from i2r.data.sources import DataError

TABLE = Path(__file__).with_name("archives.csv")
ARCHIVES = "archives"  # folder of the downloaded archives, below the data folder


class FetchError(DataError):
    """Data that cannot be fetched or used; the message names the file, the problem and what to do."""


@dataclass(frozen=True)
class Archive:
    """A line of the table. `bytes` is None where the size is not known."""

    name: str
    file: str
    url: str
    bytes: int | None
    checksum: str
    top: str
    place: str
    contains: tuple[str, ...]
    licence: str
    version: str
    page: str

    def path(self, root: Path) -> Path:
        """Where the downloaded file lies."""
        return root / ARCHIVES / self.file if self.top else root / self.place

    def made(self, root: Path) -> Path:
        """The folder that it is unpacked to; the file itself if it is not unpacked."""
        return root / self.place


@cache
def read_table(path: Path = TABLE) -> dict[str, Archive]:
    """The archives by name.

    Raises:
        FetchError: there is no such file, it has other columns, or a line is wrong.
    """
    if not path.is_file():
        raise FetchError(f"{path}: no such table of archives")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        wanted = [field.name for field in fields(Archive)]
        if reader.fieldnames != wanted:
            raise FetchError(f"{path}: the columns must be {', '.join(wanted)}")
        found: dict[str, Archive] = {}
        for line in reader:
            archive = _archive(line, f"{path}, line {reader.line_num}")
            if archive.name in found:
                raise FetchError(f"{path}, line {reader.line_num}: {archive.name} is there twice")
            found[archive.name] = archive
    return found


def _archive(line: dict[str, str], where: str) -> Archive:
    if None in line or None in line.values():
        raise FetchError(f"{where}: not one value for each column")
    if line["bytes"] and not line["bytes"].isdecimal():
        raise FetchError(f"{where}: bytes must be a number or empty, got {line['bytes']!r}")
    kind, _, digits = line["checksum"].partition(":")
    if line["checksum"] and (
        kind not in ("md5", "sha256", "sha256-prefix") or not digits or set(digits) - set("0123456789abcdef")
    ):
        raise FetchError(f"{where}: {line['checksum']!r} is no checksum such as md5:0123abcd")
    size = int(line["bytes"]) if line["bytes"] else None
    return Archive(**{**line, "bytes": size, "contains": tuple(line["contains"].split())})


def chosen(names: Sequence[str], table: dict[str, Archive]) -> list[Archive]:
    """The archives with these names, in the order of the table, each once.

    Raises:
        FetchError: there is no archive with one of the names.
    """
    unknown = [name for name in names if name not in table]
    if unknown:
        raise FetchError(f"{', '.join(unknown)}: no such archive; there are {', '.join(table)}")
    return [archive for archive in table.values() if archive.name in names]


def mismatch(path: Path, checksum: str) -> str:
    """What differs between a file and a checksum of the table; empty if nothing does."""
    kind, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind.removesuffix("-prefix")).hexdigest()
    if found.startswith(expected) if kind.endswith("-prefix") else found == expected:
        return ""
    return f"{kind} is {found[: len(expected)]}, must be {expected}"
