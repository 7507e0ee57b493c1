"""Errors that a user can put right, and how a command shows them."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something that a user can put right; the message names the file or key and says what is wrong with it."""


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # a disk takes no more
AGAIN = "then run the same command again"
ROOM = f"make room there, {AGAIN}"
REMEDIES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EROFS: f"make it writable, {AGAIN}",
    errno.EACCES: f"change its permissions, {AGAIN}",
}


def sentence(error: BaseException) -> str | None:
    """The message for an expected error, or None for one that only a fault of the code can cause."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"a text file is not UTF-8 ({error.reason} at byte {error.start})"
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return f"{said} ({REMEDIES[error.errno]})" if error.errno in REMEDIES else said
    return None


@contextmanager
def as_sentences() -> Iterator[None]:
    """End the command with status 1 and one sentence after an expected error; others keep their traceback.

    After Ctrl-C it ends with status 130. A reader that stops early, as in `i2r readings | head -1`, ends the command
    without a word.
    """
    try:
        try:
            yield
        except SystemExit:  # of argparse after --help, for example
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the end
        print("i2r: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK and not error.filename:
            error.filename = "standard output"  # all others are named by files.naming_the_disk
        text = sentence(error)
        if text is None:
            raise
        print(f"i2r: {text}", file=sys.stderr)
        sys.exit(1)
