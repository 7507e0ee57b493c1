"""The content of a data set as one digest, which is part of the keys of everything made from it.

Planning compares names, sizes and times of all files below the folder with those of the last time, and reads files
only where these differ. The digest itself knows nothing of times or places, so a copied data set has the same one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from i2r.files import canonical, digest_of, read_json, sha256, write_json
from i2r.progress import Progress

# A file can change again without a new time, so files younger than this are read again next time
_SETTLED_NS = 2_000_000_000
_known: dict[Path, str | None] = {}  # digests that this process has found; a plan asks once for each method


def content_sha(path: Path) -> str:
    """sha256 of a file (hex); zeros for a file that is missing."""
    return sha256(path) if path.is_file() else "0" * 64


# Folders of a source that planning looks at; the first must be there. Other sources: the whole root.
_COCO = ("annotations", "train2014", "val2014", "masks", "masks-crowds")
PARTS = {"voc": ("JPEGImages", "SegmentationClassAug"), "coco": _COCO, "coco-crowds": _COCO}


def is_there(root: Path, source: str) -> bool:
    """Whether a folder can be the data set of a source."""
    return (root / PARTS.get(source, (".",))[0]).is_dir()


class Listing(NamedTuple):
    """The files that make up a data set.

    Attributes:
        lists: {"train": ids, "val": ids}, in order.
        files: id -> its files, in a fixed order.
        more: further files that decide the data, such as annotations.
        rule: params that decide how masks are made from these.
        derived: file that was made from the others -> its sha256 when it was made.
    """

    lists: dict[str, list[str]]
    files: dict[str, tuple[Path, ...]]
    more: tuple[Path, ...] = ()
    rule: str = ""
    derived: Mapping[Path, str] = {}


def content_digest(listing: Listing, sha: Callable[[Path], str]) -> str:
    """The digest (sha256, hex) of a data set; `sha`: the sha256 of a file."""
    digest = hashlib.sha256()
    for path in listing.more:
        digest.update(bytes.fromhex(sha(path)))
    digest.update(listing.rule.encode())
    for name, files in listing.files.items():
        digest.update(name.encode() + b"\0" + b"".join(bytes.fromhex(sha(path)) for path in files))
    for split, ids in listing.lists.items():
        digest.update("\n".join([split, *ids]).encode())
    return digest.hexdigest()


def known_digest(
    state: Path,
    root: Path,
    what: Mapping[str, Any],
    listing: Callable[[], Listing | None],
    again: bool = False,
) -> str | None:
    """The digest of the data set in `root`, None if there is no listing.

    Files that have kept size and time since the last call are not read.

    Args:
        state: folder in which sizes, times and digests are kept.
        what: the source, train_list, val_list, which decide what `listing` returns.
        again: look again at sizes and times that this process has seen.

    Raises:
        ValueError: a list cannot be read, or a derived file is missing or was changed.
    """
    name = digest_of(canonical([str(root.resolve()), what]))[:16]
    lists = tuple(what[split] for split in ("train_list", "val_list") if what.get(split))
    parts = (*PARTS.get(what.get("source", ""), (".",)), *lists)
    path = state / f"{name}.json"
    if again or path not in _known:
        _known[path] = _digest(path, root, parts, listing)
    return _known[path]


def _digest(
    path: Path, root: Path, parts: tuple[str, ...], listing: Callable[[], Listing | None]
) -> str | None:
    now = signature(root, parts)
    with suppress(OSError, ValueError, KeyError):
        last = read_json(path)
        if last["signature"] == now:
            return last["digest"]
    table = path.with_suffix(".files.json")
    known: dict[str, list[Any]] = {}
    with suppress(OSError, ValueError):
        known = read_json(table)
    made = listing()
    if made is None:
        return None
    young = time.time_ns() - _SETTLED_NS
    found: dict[str, list[Any]] = {}
    total = sum(len(files) for files in made.files.values()) + len(made.more) + len(made.derived)
    with Progress(f"read {root}", total=total, unit="file") as progress:

        def sha(file: Path) -> str:
            progress.update(1)
            if not file.is_file():
                return content_sha(file)
            stat, key = file.stat(), str(file)
            entry = known.get(key, [])
            if entry[:2] != [stat.st_size, stat.st_mtime_ns]:
                entry = [stat.st_size, stat.st_mtime_ns, sha256(file)]
            found[key] = entry
            return entry[2]

        changed = [file for file, was in made.derived.items() if not file.is_file() or sha(file) != was]
        if changed:
            named = ", ".join(file.name for file in changed[:5]) + (" ..." if len(changed) > 5 else "")
            raise ValueError(
                f"{len(changed)} masks below {root} are missing or were changed after they were drawn ({named}); "
                f"`i2r data prepare coco --coco {root} --out {root}` draws them again"
            )
        digest = content_digest(made, sha)
    settled = {key: entry for key, entry in found.items() if entry[1] < young}
    with suppress(OSError):  # a folder that cannot be written to only costs time
        write_json(table, settled)
        if len(settled) == len(found):
            write_json(path, {"signature": now, "digest": digest})
    return digest


def signature(root: Path, parts: tuple[str, ...] = (".",)) -> str:
    """A hash of the names, sizes and times of files, and of all files in folders and below, without hidden ones.

    parts: files and folders below `root`; those that are missing count as empty.
    """
    digest = hashlib.sha256()
    for part in parts:
        for name, size, modified in _stats(root / part):
            digest.update(f"{name}\0{size}\0{modified}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _stats(path: Path | os.DirEntry) -> Iterator[tuple[str, int, int]]:
    if not path.is_dir():
        with suppress(OSError):
            stat = path.stat()
            yield os.fspath(path), stat.st_size, stat.st_mtime_ns
        return
    try:
        with os.scandir(path) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in ordered:
        if not entry.name.startswith("."):
            yield from _stats(entry)
