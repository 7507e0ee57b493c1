"""Atomic writing of files, JSON, and hashes of content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from i2r.errors import DISK, InputError


@contextmanager
def naming_the_disk(path: Path) -> Iterator[None]:
    """Make an error of the disk name `path`, a file or folder that is being written, whatever a library makes of it.

    Raises:
        OSError: the disk takes no more.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = _disk_error(error, path if path.is_dir() else path.parent)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _disk_error(error: Exception, folder: Path) -> int | None:
    """The number of the disk's error behind an error of writing; None if the disk is not its reason."""
    if isinstance(error, OSError) and error.errno:
        return error.errno if error.errno in DISK else None
    if found := re.search(r"\(os error (\d+)\)", str(error)):  # of a library in Rust: safetensors
        return int(found[1])
    try:  # torch's errors do not say it, so a little more is written
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
            file.flush()
    except OSError as full:
        return full.errno
    return None


@contextmanager
def replacing(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """A temporary file in the folder of `path`, which replaces `path` when the block ends without an error.

    It has the suffix of `path`, which decides the format for some writers (images, npz, safetensors).

    Args:
        durable: flush it to disk first, so that after a loss of power `path` is never empty.

    Raises:
        OSError: naming `path`, if it cannot be written or its disk takes no more.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # not the temporary name
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        with naming_the_disk(path):
            yield temporary
        if durable:
            flush(temporary)
        temporary.chmod(
            0o666 & ~_umask()
        )  # mkstemp's 0600 would make results unreadable to others who share the folder
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str, durable: bool = True) -> None:
    with replacing(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, obj: Any, durable: bool = True) -> None:
    """Write JSON with one key per line; NaN and infinity are refused, because JSON has no such values."""
    write_text(path, json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False) + "\n", durable)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: naming the file, if it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # also text that is not UTF-8
        raise InputError(f"{path}: not JSON in UTF-8: {error}") from None


def canonical(obj: Any) -> str:
    """The canonical JSON text of a value: sorted keys, no spaces, plain ASCII."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(text: str) -> str:
    """SHA-256 (hex) of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def flush(path: Path) -> None:
    """Flush a file, or all files below a folder, to disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a file; for a folder, of the names and hashes of all files below it.

    Hidden files are left out: Snakemake puts a time stamp file into folders.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("[!.]*") if file.is_file())
        listing = "".join(f"{sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
