"""Download of one file from one URL, going on where an earlier attempt stopped.

pooch, the usual choice, neither resumes nor keeps what has arrived, so this is built on requests.

The bytes go to FILE.part; FILE.part.json says where they came from, so that only the same content is appended to.
"""

from __future__ import annotations

import email.utils
import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from i2r.data.fetch.table import FetchError
from i2r.files import read_json, write_json
from i2r.progress import Progress, bytes_text

BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that may change when asked again
SPARE = 2**26  # bytes that a download leaves free on the disk
CHUNK = 2**16
GAIN = 2**20  # bytes after which a try counts as a success, although it was cut


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        tries: attempts at one URL without progress.
        wait, longest: seconds before the second attempt, doubled for each further one, and their limit.
        connect, read: seconds until a server that does not answer, or stops sending, counts as gone.
        slowest, window: fewer bytes per second than `slowest`, over `window` seconds, count as gone too.
    """

    tries: int = 8
    wait: float = 1.0
    longest: float = 60.0
    connect: float = 20.0
    read: float = 60.0
    slowest: float = 1000.0
    window: float = 60.0


class GaveUp(Exception):
    """This URL does not give the file; another one might."""


class _Again(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, why: str, wait: float | None = None):
        super().__init__(why)
        self.wait = wait


def download(url: str, part: Path, *, size: int | None, known: bool, patience: Patience) -> None:
    """Complete the file `part` from `url`.

    Args:
        size: bytes that the file must have, if known.
        known: the content is checked afterwards, so bytes from another URL may be continued. Otherwise a download
            goes on only if the server says that the file is still the same.

    Raises:
        GaveUp: the URL does not give the file; what has arrived is kept.
        FetchError: the disk is full.
    """
    best, tries = _size(part), 0
    with requests.Session() as session:
        session.max_redirects = 10
        while True:
            try:
                _attempt(session, url, part, size, known, patience)
                return
            except _Again as error:
                if _size(part) >= best + GAIN:
                    best, tries = _size(part), 0
                tries += 1
                if tries >= patience.tries:
                    raise GaveUp(f"{error}, at {tries} tries") from None
                wait = min(patience.wait * 2 ** (tries - 1), patience.longest)
                wait = wait if error.wait is None else min(max(error.wait, wait), 5 * patience.longest)
                print(f"{url}: {error}; next try in {wait:.0f} s", file=sys.stderr)
                time.sleep(wait)


def discard(part: Path) -> None:
    """Remove an incomplete download."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what does not fit on the disk.

    Raises:
        FetchError: less than `needed` bytes, and a reserve, are free.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise FetchError(f"{folder}: {bytes_text(free)} are free, but {what} needs {bytes_text(needed)}")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Name the file when it cannot be read or written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(f"{path}: the disk is full; free some space, then run again") from None
        raise FetchError(f"{error.filename or path}: {error.strerror}") from None


def _attempt(
    session: requests.Session, url: str, part: Path, size: int | None, known: bool, patience: Patience
) -> None:
    have, note = _size(part), _read_note(part)
    if size is not None and have == size and (known or note.get("url") == url):
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "i2r"}
    same = note.get("url") == url and note.get("state")
    if have and (known or same):
        headers["Range"] = f"bytes={have}-"
        if same:
            headers["If-Range"] = note["state"]
    with _answer(session, url, headers, patience) as response:
        start, total = _extent(response, part, have)
        if total is not None and size not in (None, total):
            raise GaveUp(f"the server has {total} bytes, the file must have {size}; it is another file")
        if total is not None:
            check_room(part.parent, total - start, part.name)
        with disk_errors(part):
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as file:
                file.truncate(start)
            if start == 0:
                write_json(_note(part), {"url": url, "state": _state(response)})
        _receive(response, part, start, total if total is not None else size, patience)


def _answer(
    session: requests.Session, url: str, headers: dict[str, str], patience: Patience
) -> requests.Response:
    try:
        response = session.get(url, headers=headers, stream=True, timeout=(patience.connect, patience.read))
    except requests.TooManyRedirects:
        raise GaveUp("redirects without end") from None
    except requests.exceptions.SSLError as error:
        raise GaveUp(f"no secure connection: {error}") from None
    except requests.Timeout:
        raise _Again("no answer in time") from None
    except requests.ConnectionError as error:
        reason = getattr(error.args[0], "reason", error) if error.args else error
        raise _Again(f"no connection: {reason}") from None
    except requests.RequestException as error:
        raise GaveUp(f"{type(error).__name__}: {error}") from None
    if response.status_code in BUSY:
        response.close()
        raise _Again(f"the server answers {_status(response)}", _retry_after(response))
    if response.status_code not in (200, 206, 416):
        response.close()
        raise GaveUp(f"the server answers {_status(response)}")
    return response


def _status(response: requests.Response) -> str:
    return f"{response.status_code} {response.reason or ''}".strip()


def _extent(response: requests.Response, part: Path, have: int) -> tuple[int, int | None]:
    """The offset at which the answer begins, and the size of the whole file if the server says it."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    matched = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", "").strip(), re.ASCII
    )
    if matched and response.status_code == 416 and int(matched[2]) == have:
        return have, have
    if response.status_code == 206 and matched and matched[1] and int(matched[1]) <= have:
        return int(matched[1]), int(matched[2])
    discard(part)
    raise _Again("the server cannot go on from here, so this starts over")


def _receive(
    response: requests.Response, part: Path, start: int, total: int | None, patience: Patience
) -> None:
    if response.status_code == 416:
        return
    done = start
    with disk_errors(part):
        file = part.open("r+b", buffering=0)  # what a killed process has received is kept
    with file, Progress(part.stem, total, "B", start=start) as progress:
        file.seek(start)
        since, before = time.monotonic(), start
        while True:
            try:
                chunk = response.raw.read1(CHUNK, decode_content=False)
            except urllib3.exceptions.ReadTimeoutError:
                raise _Again(f"nothing arrived for {patience.read:.0f} s") from None
            except urllib3.exceptions.HTTPError:  # cut; counted below
                chunk = b""
            if not chunk:
                break
            done += len(chunk)
            if total is not None and done > total:
                raise GaveUp(f"the server sends more than {total} bytes; it is another file")
            with disk_errors(part):
                file.write(chunk)
            progress.update(len(chunk))
            elapsed = time.monotonic() - since
            if elapsed >= patience.window:
                if done - before < patience.slowest * elapsed:
                    raise _Again(f"only {bytes_text((done - before) / elapsed)}/s arrive")
                since, before = time.monotonic(), done
        with disk_errors(part):
            os.fsync(file.fileno())
    if total is not None and done != total:
        raise _Again(f"cut after {done} of {total} bytes")


def _state(response: requests.Response) -> str | None:
    """What the server calls this version of the file: a strong ETag, else the time of its last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> dict[str, str | None]:
    try:
        note = read_json(_note(part))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
