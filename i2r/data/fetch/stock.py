"""What of an archive is in a data folder, and what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from i2r.data.fetch.lockfile import problem, read_lock
from i2r.data.fetch.table import Archive, chosen, read_table
from i2r.data.fetch.unpack import LISTING, bad_files, source_of
from i2r.progress import bytes_text


@dataclass(frozen=True)
class State:
    """What is there of an archive.

    Attributes:
        kind: "ready"; "packed" (the archive is there, not yet unpacked); "part" (some of it has arrived); "missing";
            "damaged" (something is there, but not as it must be); "foreign" (a folder placed by hand which lacks
            something: it is never touched).
        note: for people.
        to_fetch: bytes still to be downloaded; None if not known.
    """

    archive: Archive
    kind: str
    note: str
    to_fetch: int | None


def inspect(archive: Archive, root: Path, *, content: bool = False) -> State:
    """Look for an archive in the data folder `root`; changes nothing.

    Args:
        content: read all files; otherwise only names and sizes of unpacked files are compared.
    """
    path, made = archive.path(root), archive.made(root)
    left = _to_download(archive, root)
    if not archive.top:
        if path.is_file():
            why = problem(root, archive, path, content=content)
            return State(archive, "damaged", f"{path} {why}", left) if why else State(archive, "ready", "", 0)
        return _absent(archive, root, left)
    if made.is_dir():
        source = source_of(made)
        if source is None:
            lacking = [name for name in archive.contains if not (made / name).exists()]
            lacking = lacking or ([] if any(made.iterdir()) else ["any file"])
            if not lacking:
                return State(archive, "ready", "placed by hand", 0)
            return State(archive, "foreign", f"{made} was placed by hand, but has no {', '.join(lacking)}", 0)
        bad = _wrong(archive, root, source, content)
        return State(archive, "damaged", bad, left) if bad else State(archive, "ready", "", 0)
    if made.exists():
        return State(archive, "foreign", f"{made} is not a folder", 0)
    if path.is_file():
        why = problem(root, archive, path, content=False)
        return State(archive, "damaged", f"{path} {why}", left) if why else State(archive, "packed", "", 0)
    return _absent(archive, root, left)


def _wrong(archive: Archive, root: Path, source: str, content: bool) -> str:
    made, line = archive.made(root), read_lock(root).get(archive.file)
    if line and line.sha256 not in source:
        return f"{made} was unpacked from another {archive.file} than the one in data.lock"
    try:
        bad = bad_files(made, content=content)
    except ValueError:
        return f"{made / LISTING} is damaged"
    if not bad:
        return ""
    shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    return f"in {made}, {len(bad)} missing or altered: {shown}"


def _to_download(archive: Archive, root: Path) -> int | None:
    """Bytes to download before the archive can be unpacked; 0 if it is there with the right size."""
    path = archive.path(root)
    if archive.top and path.is_file() and not problem(root, archive, path, content=False):
        return 0
    line = read_lock(root).get(archive.file)
    size = archive.bytes if archive.bytes is not None else line.bytes if line else None
    return None if size is None else max(size - _arrived(archive, root), 0)


def _arrived(archive: Archive, root: Path) -> int:
    part = part_of(archive, root)
    return part.stat().st_size if part.is_file() else 0


def part_of(archive: Archive, root: Path) -> Path:
    """The file of an unfinished download."""
    path = archive.path(root)
    return path.with_name(path.name + ".part")


def _absent(archive: Archive, root: Path, left: int | None) -> State:
    arrived = _arrived(archive, root)
    if arrived:
        return State(archive, "part", f"{bytes_text(arrived)} have arrived", left)
    return State(archive, "missing", "", left)


def room_for(states: Sequence[State], root: Path) -> tuple[int, int]:
    """Bytes to download as far as they are known, and about how many more when that is unpacked."""
    load = sum(state.to_fetch or 0 for state in states)
    # what is unpacked takes about as much as the archive: nearly all of it is JPEG
    unpacked = sum(
        state.to_fetch or (path.stat().st_size if path.is_file() else 0)
        for state in states
        if state.archive.top and state.kind != "ready"
        for path in [state.archive.path(root)]
    )
    return load, unpacked


def by_hand(archive: Archive, root: Path) -> str:
    """What to place where, when nothing is downloaded."""
    line = read_lock(root).get(archive.file)
    size = archive.bytes if archive.bytes is not None else line.bytes if line else None
    facts = [bytes_text(size) if size is not None else "size not known"]
    facts += [archive.checksum] if archive.checksum else [f"sha256:{line.sha256}"] if line else []
    where = f"place it at {archive.path(root)}"
    if archive.top:
        where += f", or its folder {archive.top}/ as {archive.made(root)}/"
    return f"{archive.name}: {archive.file} ({', '.join(facts)}) from {archive.url or archive.page}: {where}"


def status_text(
    names: Sequence[str], root: Path, *, content: bool = False, table: dict[str, Archive] | None = None
) -> str:
    """A line for each archive (all, if none is named), the sum to fetch, and what to place by hand.

    Raises:
        FetchError: there is no archive with one of the names.
    """
    table = table or read_table()
    states = [inspect(archive, root, content=content) for archive in chosen(names or list(table), table)]
    lines = []
    for state in states:
        archive, size = state.archive, state.archive.bytes
        shown = bytes_text(size) if size is not None else "size ?"
        facts = [f"{archive.name:22}{state.kind:9}{shown:>10}", str(archive.made(root)), state.note]
        lines.append("  ".join(fact for fact in facts if fact))
    open_ = [
        state for state in states if state.kind in ("part", "missing", "damaged") and state.to_fetch != 0
    ]
    online = [state for state in open_ if state.archive.url]
    known = sum(state.to_fetch or 0 for state in online)
    unknown = [state.archive.name for state in online if state.to_fetch is None]
    total = f"to fetch: {len(online)} files, {bytes_text(known)}"
    lines += ["", total + (f" and {', '.join(unknown)} (size not known)" if unknown else "")]
    if root.exists():
        lines.append(f"free in {root}: {bytes_text(shutil.disk_usage(root).free)}")
    if open_:
        lines += ["", "by hand, or for --offline:", *(f"  {by_hand(state.archive, root)}" for state in open_)]
    return "\n".join(lines)
