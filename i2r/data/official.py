"""Data sets and weights from the official archives, in a data folder that runs and users share.

DATA_ROOT/VOC2012 is prepared from the unpacked archives of VOC 2012 and SBD, and has a listing of its files like them.
DATA_ROOT/coco2014 and files of weights are the archives themselves. A folder placed by hand is used as it is.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2r.data.fetch.download import disk_errors
from i2r.data.fetch.lockfile import FIRST, PUBLISHED, read_lock
from i2r.data.fetch.stock import State, inspect, room_for
from i2r.data.fetch.table import Archive, FetchError, chosen
from i2r.data.fetch.unpack import bad_files, list_files, repair, source_of
from i2r.data.fetch.work import alone, fetch
from i2r.data.prepare import prepare_voc
from i2r.data.voc import IMAGES, LISTS, MASKS
from i2r.files import sha256
from i2r.progress import bytes_text

PREPARED = "VOC2012"
PREPARING = ".preparing-"


@dataclass(frozen=True)
class Wanted:
    """What is to be in a data folder.

    Attributes:
        root: the data folder.
        names: of the archives.
        folder: of the data set that they make, below root; empty for weights.
        table: archives by name.
        mirrors: addresses of folders with the official files, asked first.
        offline: download nothing.
    """

    root: Path
    names: Sequence[str]
    folder: str
    table: Mapping[str, Archive]
    mirrors: Sequence[str] = ()
    offline: bool = False

    @property
    def archives(self) -> list[Archive]:
        return chosen(self.names, dict(self.table))

    @property
    def prepared(self) -> Path | None:
        """The folder that is prepared from the archives, if one is."""
        return self.root / self.folder if self.folder == PREPARED else None

    @property
    def source(self) -> str:
        """The head of the prepared folder's listing: the files that it was made from."""
        lines = read_lock(self.root)
        parts = [
            f"{archive.file} sha256 {lines[archive.file].sha256}" if archive.file in lines else archive.file
            for archive in self.archives
        ]
        return "prepared by i2r from " + ", ".join(parts)


def obtain(wanted: Wanted, workers: int = 1) -> dict[str, Any]:
    """Fetch what is missing, restore what was altered (each is named), and prepare the data set.

    Args:
        workers: processes that prepare.

    Returns:
        name of the archive -> its file, and what data.lock says of it: bytes, sha256, how it was checked; for a
        folder placed by hand only that. `place` of a file that is not unpacked is below the data folder.

    Raises:
        FetchError: something cannot be had or is wrong.
        DataError: the archives do not make a data set.
    """
    home = wanted.prepared
    if home is None:
        _fetch(wanted)
    elif _placed_by_hand(home):
        _say(f"{home} was placed by hand and is used as it is")
        return {archive.name: {"file": archive.file, "how": "placed by hand"} for archive in wanted.archives}
    elif _altered(wanted, home, content=True) != []:
        _fetch(wanted)
        with alone(wanted.root):
            _prepare(wanted, home, workers)
    return {archive.name: _described(archive, wanted.root) for archive in wanted.archives}


def lacking(wanted: Wanted) -> list[State]:
    """The archives of which something would be downloaded or unpacked; changes nothing, and compares only sizes.

    Raises:
        FetchError: a folder that was placed by hand lacks something.
    """
    home = wanted.prepared
    if home is not None and (_placed_by_hand(home) or _altered(wanted, home) == []):
        return []
    states = [inspect(archive, wanted.root) for archive in wanted.archives]
    return [state for state in states if state.kind != "ready"]


def lacking_text(wanted: Wanted, states: Sequence[State]) -> str:
    """What would be fetched: each archive with its size and address, the total, and the free space.

    Empty if nothing would be; what only people can get is in the sentence of `work.refuse`.
    """
    lines, load = [], []
    first = f"{', '.join(wanted.mirrors)}, then " if wanted.mirrors else ""
    for state in states:
        archive = state.archive
        if state.to_fetch == 0:
            lines.append(f"{archive.name}: {archive.path(wanted.root)} is there, and will be unpacked")
        elif archive.url and not wanted.offline:
            size = "size not known" if state.to_fetch is None else bytes_text(state.to_fetch)
            lines.append(f"{archive.name}: {archive.file}, {size}, from {first}{archive.url}")
            load.append(state)
    if not lines:
        return ""
    download, unpacked = room_for(
        [state for state in states if state in load or state.to_fetch == 0], wanted.root
    )
    unknown = sum(state.to_fetch is None for state in load)
    there = next(path for path in (wanted.root, *wanted.root.absolute().parents) if path.exists())
    total = [bytes_text(download)] if download or not unknown else []
    total += [f"{unknown} file{'s' if unknown > 1 else ''} of unknown size"] if unknown else []
    total += [f"about {bytes_text(unpacked)} more when unpacked"] if unpacked else []
    free = bytes_text(shutil.disk_usage(there).free)
    return "\n".join([*lines, f"in all {', '.join(total)}; {free} are free in {wanted.root}"])


def _fetch(wanted: Wanted) -> None:
    # read whole, because other users may have changed something
    fetch(
        wanted.names,
        wanted.root,
        offline=wanted.offline,
        mirrors=wanted.mirrors,
        content=True,
        table=dict(wanted.table),
    )


def _placed_by_hand(home: Path) -> bool:
    """Whether people made the folder.

    Raises:
        FetchError: they did, but it lacks something.
    """
    if not home.is_dir() or source_of(home) is not None:
        return False
    missing = [name for name in (IMAGES, MASKS, *LISTS.values()) if not (home / name).exists()]
    if missing:
        raise FetchError(
            f"{home} was placed by hand, but has no {', '.join(missing)}; complete it, or remove it to have it made"
        )
    return True


def _altered(wanted: Wanted, home: Path, *, content: bool = False) -> list[str] | None:
    """Files of the prepared folder that are missing or altered; None if all of it has to be made."""
    if not home.is_dir() or source_of(home) != wanted.source:
        return None
    try:
        return bad_files(home, content=content)
    except ValueError:
        return None


def _prepare(wanted: Wanted, home: Path, workers: int) -> None:
    altered = _altered(wanted, home, content=True)  # another process may have been at work
    if altered == []:
        return
    if altered:
        _say(f"in {home}, {len(altered)} missing or altered, made again: {', '.join(altered[:20])}")
    temporary = wanted.root / f"{PREPARING}{home.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    with disk_errors(temporary):
        said = prepare_voc(wanted.root / "VOCdevkit", wanted.root / "benchmark_RELEASE", temporary, workers)
        list_files(temporary, wanted.source)
        if home.is_dir():
            repair(temporary, home)
            shutil.rmtree(temporary)
        else:
            temporary.rename(home)
    _say(f"{home}: {said.removeprefix(f'{temporary}: ')}")


def _described(archive: Archive, root: Path) -> dict[str, Any]:
    line, path = read_lock(root).get(archive.file), archive.path(root)
    found: dict[str, Any] = {"file": archive.file} | ({} if archive.top else {"place": archive.place})
    if line:
        return found | {"bytes": line.bytes, "sha256": line.sha256, "how": line.how}
    if archive.top:
        return found | {"how": "placed by hand"}
    how = PUBLISHED if archive.checksum else FIRST
    return found | {"bytes": path.stat().st_size, "sha256": sha256(path), "how": how}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
