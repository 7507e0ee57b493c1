"""The commands `i2r data`."""

from __future__ import annotations

import argparse

from i2r import cli_prepare


def add(verbs: argparse._SubParsersAction) -> None:
    """Register the commands."""
    tasks = verbs.add_parser("data", help="fetch and describe data sets").add_subparsers(
        required=True, metavar="TASK"
    )
    cli_prepare.add(tasks)
