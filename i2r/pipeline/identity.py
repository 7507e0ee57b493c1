"""What stands for files in keys: the content of a data set and of weights, not their paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from i2r.config.base import ParamsError
from i2r.config.data_set import Data
from i2r.data.content import Listing, is_there, known_digest
from i2r.files import sha256


def data_identity(data: Data, state: Path, where: str) -> dict[str, Any]:
    """Source, lists and digest of a data set, or its folder if that is not there to be read.

    For official data, source and lists: the job that fetches the archives stands for the content.

    Args:
        state: folder in which sizes and times of files are kept, see content.known_digest.
        where: name of the section, for messages.

    Raises:
        ParamsError: the data set cannot be read, or its digest is not data.digest.
    """
    root, uses = Path(str(data.root)), {"source": data.source, **_lists_of(data)}
    if data.official:
        return uses | ({"digest": data.digest} if data.digest else {})
    otherwise = uses | ({"digest": data.digest} if data.digest else {"root": str(data.root)})
    if not is_there(root, data.source):  # the data job says what is missing
        return otherwise
    try:
        found = digest_now(uses, root, state)
    except (ValueError, OSError) as error:
        raise ParamsError(f"{where}: {error}") from None
    if found is None:
        return otherwise
    if data.digest not in (None, found):
        raise ParamsError(
            f"{where}.digest: {root} has lists, images and masks with the digest {found}, but the params have "
            f"{data.digest}"
        )
    return uses | {"digest": found}


def digest_now(uses: Mapping[str, Any], root: Path, state: Path, again: bool = False) -> str | None:
    """The digest of a data set, see content.known_digest; `uses` has its source and lists."""
    what = {name: uses[name] for name in ("source", "train_list", "val_list")}

    def listing() -> Listing | None:
        from i2r.data.sources import open_source

        found = open_source(what["source"]).listing
        return found and found(what, root)

    return known_digest(state, root, what, listing, again)


def _lists_of(data: Data) -> dict[str, str | None]:
    """The list files; None: all images by id."""
    by_id = data.source in ("coco", "coco-crowds")
    usual = {} if by_id else {"train_list": "lists/train.txt", "val_list": "lists/val.txt"}
    if data.source == "fss1000":
        usual = {"train_list": "splits/trn.txt", "val_list": "splits/test.txt"}
    return {name: getattr(data, name) or usual.get(name) for name in ("train_list", "val_list")}


def by_content(uses: dict, section: str, names: tuple[str, ...], args: dict, where: str) -> dict[str, str]:
    """Replace the path of each weights file in `uses` by its sha256; return "section.name" -> path.

    Raises:
        ParamsError: the file does not exist, or its name has a placeholder that the job has no value for.
    """
    files = {}
    for name in names:
        pattern = uses[section].get(name)
        if pattern is None:
            continue
        try:
            path = Path(pattern.format(**args))
        except (KeyError, IndexError, ValueError, AttributeError, TypeError):
            known = ", ".join(f"{{{arg}}}" for arg in args if arg != "eval_seed")
            what = f"only {known}" if known else "no braces"
            raise ParamsError(f"{where}: {pattern!r} may contain {what}") from None
        if not os.path.isfile(path):
            raise ParamsError(f"{where}: no such file: {path}")
        stat = path.stat()
        uses[section] = uses[section] | {name: _digest(path, stat.st_size, stat.st_mtime_ns)}
        files[f"{section}.{name}"] = str(path)
    return files


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    """sha256 of a file; cached, because many jobs use the same file."""
    return sha256(path)
