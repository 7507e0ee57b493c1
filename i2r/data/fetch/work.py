"""Fetching: download, check, unpack, one process at a time, so that being killed at any moment does no harm.

Everything large is made under another name and renamed when it is complete: FILE.part to FILE, .unpacking-NAME to its
folder. So what has its final name is complete, and a later run goes on from what is there.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from i2r.data.fetch.download import GaveUp, Patience, check_room, discard, disk_errors, download
from i2r.data.fetch.lockfile import LOCK, lock, problem, read_lock
from i2r.data.fetch.stock import State, by_hand, inspect, part_of, room_for
from i2r.data.fetch.table import Archive, FetchError, chosen, read_table
from i2r.data.fetch.unpack import DamagedError, repair, source_of, unpack
from i2r.files import sha256
from i2r.progress import bytes_text

BUSY = ".fetching.lock"
UNPACKING = ".unpacking-"


def fetch(
    names: Sequence[str],
    root: str | Path,
    *,
    offline: bool = False,
    mirrors: Sequence[str] = (),
    content: bool = False,
    patience: Patience | None = None,
    table: dict[str, Archive] | None = None,
) -> dict[str, Path]:
    """Make the archives with these names ready in the data folder `root`.

    A complete folder is only read, so it may be read-only.

    Args:
        offline: download nothing; what is missing is named, with the place where to put it.
        mirrors: addresses of folders that have the files under their official names; asked before the official ones.
        content: read the unpacked files too, instead of comparing their sizes.
        patience: how long to try.
        table: the archives by name; archives.csv where it is not given.

    Returns:
        for each name the unpacked folder, or the file if it is not unpacked.

    Raises:
        FetchError: something cannot be had or is wrong; nothing incomplete has a final name.
    """
    root = Path(root)
    archives = chosen(names, table or read_table())
    places = {archive.name: archive.made(root) for archive in archives}
    states = [_inspect(archive, root, content) for archive in archives]
    if all(state.kind == "ready" for state in states):
        return places
    refuse(states, root, offline)
    with alone(root), disk_errors(root):
        _clean(archives, root)
        states = [_inspect(archive, root, content) for archive in archives]
        refuse(states, root, offline)  # another process may have changed something meanwhile
        load, unpacked = room_for(states, root)
        what = f"this ({bytes_text(load)} to download, about {bytes_text(unpacked)} when unpacked)"
        check_room(root, load + unpacked, what)
        for state in states:
            if state.kind != "ready":
                if state.kind == "damaged":
                    _say(f"{state.archive.name}: {state.note}; made again")
                _obtain(state.archive, root, offline, mirrors, patience or Patience())
    return places


def require(names: Sequence[str], root: str | Path, *, table: dict[str, Archive] | None = None) -> None:
    """Refuse to start where something would have to be downloaded; changes nothing.

    Raises:
        FetchError: archives are missing; each with its size and the place where to put it.
    """
    root = Path(root)
    refuse([inspect(archive, root) for archive in chosen(names, table or read_table())], root, offline=True)


def _inspect(archive: Archive, root: Path, content: bool) -> State:
    # single files are small enough to be read each time
    return inspect(archive, root, content=content or not archive.top)


def _clean(archives: list[Archive], root: Path) -> None:
    """Remove what a killed process left under a temporary name; only the holder of the lock may do so."""
    for folder in root.glob(f"{UNPACKING}*"):
        shutil.rmtree(folder)
    for file in root.glob(".data-*.lock"):
        file.unlink()
    for folder in {archive.path(root).parent for archive in archives}:
        for file in folder.glob(".*.part-*.json"):
            file.unlink()
    for archive in archives:
        if archive.path(root).is_file():  # killed between the file's last rename and the removal of its notes
            discard(part_of(archive, root))


def refuse(states: list[State], root: Path, offline: bool) -> None:
    """Stop before anything starts, naming everything that only people can mend.

    Raises:
        FetchError: something has to be placed by hand; each with its size and place.
    """
    lines = [f"{state.archive.name}: {state.note}" for state in states if state.kind == "foreign"]
    for state in states:
        absent = state.kind in ("part", "missing") or (state.kind == "damaged" and state.to_fetch != 0)
        if absent and (offline or not state.archive.url):
            lines.append(by_hand(state.archive, root) + (f"; {state.note}" if state.note else ""))
    if lines:
        what = "offline, and not there" if offline else "has to be done by hand"
        raise FetchError(f"{root}: {what}:\n  " + "\n  ".join(lines))


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the lock of the data folder.

    Raises:
        FetchError: the folder cannot be written to.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        busy = FileLock(root / BUSY, mode=0o666)
        try:
            busy.acquire(timeout=0)
        except Timeout:
            _say(f"another process is fetching into {root}; waiting for it")
            busy.acquire()
    except OSError as error:
        raise FetchError(f"{root}: cannot be written ({error.strerror}), and it is not complete") from None
    try:
        yield
    finally:
        busy.release()


def _obtain(archive: Archive, root: Path, offline: bool, mirrors: Sequence[str], patience: Patience) -> None:
    for last in (False, True):
        path = archive.path(root)
        why = problem(root, archive, path) if path.is_file() else "is not there"
        if why:
            if offline or not archive.url:
                raise FetchError(f"{path} {why}; {by_hand(archive, root)}")
            if path.is_file():
                _say(f"{path} {why}; fetched again")
                path.unlink()
            _download(archive, root, mirrors, patience)
        try:
            if archive.top:
                _unpack(archive, root)
        except DamagedError as error:
            if last or offline or archive.checksum or archive.file in read_lock(root) or not archive.url:
                raise
            _say(f"{error}; fetched again")
            path.unlink()
        else:
            return


def _download(archive: Archive, root: Path, mirrors: Sequence[str], patience: Patience) -> None:
    """Bring the file of an archive, checked, to its place."""
    line, part = read_lock(root).get(archive.file), part_of(archive, root)
    size = archive.bytes if archive.bytes is not None else line.bytes if line else None
    known = bool(archive.checksum or line)
    failed = []
    for url in [*(f"{mirror.rstrip('/')}/{archive.file}" for mirror in mirrors), archive.url]:
        for _ in range(2):
            try:
                download(url, part, size=size, known=known, patience=patience)
            except GaveUp as error:
                failed.append(f"{url}: {error}")
                break
            why = problem(root, archive, part)
            if not why:
                if not archive.top:
                    _lock(archive, root, part)
                part.replace(archive.path(root))
                discard(part)
                return
            discard(part)
            failed.append(f"{url}: the file {why}")
            _say(failed[-1])
    hint = f"\nIf the publisher has replaced the file, delete its line in {root / LOCK}." if line else ""
    kept = f"\n{part} is kept, and the next run goes on from it." if part.is_file() else ""
    raise FetchError(f"{archive.file} could not be fetched:\n  " + "\n  ".join(failed) + hint + kept)


def _unpack(archive: Archive, root: Path) -> None:
    path, made = archive.path(root), archive.made(root)
    temporary = root / f"{UNPACKING}{archive.name}"
    try:
        count = unpack(path, archive.top, temporary, f"{archive.file} sha256 {sha256(path)}")
        _lock(archive, root, path)
        made.parent.mkdir(parents=True, exist_ok=True)
        if made.is_dir() and source_of(made) is not None:
            repair(temporary, made)
        else:
            os.rename(temporary, made)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _say(f"{made}: {count} files unpacked from {archive.file}")


def _lock(archive: Archive, root: Path, path: Path) -> None:
    """Write the line of data.lock: before the last rename, so that nothing complete is without it."""
    note = lock(root, archive, path)
    if note:
        _say(note)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
