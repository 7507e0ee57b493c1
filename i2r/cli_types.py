"""Values of options: from the text of the command line, or an error that names the option."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError

from i2r.config.data_set import grid_side


def whole(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"must be a whole number from 0, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise ArgumentTypeError(f"must be a number from 1 to 65535, got {text!r}")
    return int(text)


def side(text: str) -> int:
    """Side of a network's input."""
    try:
        return grid_side(positive(text))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def protocol(text: str) -> tuple[str, int]:
    """Kind and number of test episodes."""
    found = re.fullmatch(r"(bam|hsnet|balanced)(?:-(\d+))?|full", text)
    if not found:
        raise ArgumentTypeError(f"must be bam-1000, hsnet-1000, balanced-1000 ... or full, got {text!r}")
    return found[1] or "full", int(found[2] or 1000)
