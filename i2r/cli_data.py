"""The commands `i2r data`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from i2r import cli_prepare
from i2r.pipeline.spec import JobError

DATA_ROOT = Path("data")


def fetch(args: argparse.Namespace) -> None:
    """Download, check and unpack archives."""
    from i2r.data.fetch import fetch as fetch_archives
    from i2r.data.fetch import read_table

    if bool(args.names) == args.all:
        raise JobError(f"name what to fetch, or use --all; there are {', '.join(read_table())}")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    names = [name for name, archive in read_table().items() if archive.url] if args.all else args.names
    try:
        places = fetch_archives(
            names, args.data_root, offline=args.offline, mirrors=args.mirror, content=args.check
        )
    except KeyboardInterrupt:
        print(
            "i2r: interrupted; run the same command again to continue from what has arrived", file=sys.stderr
        )
        sys.exit(130)
    for name, place in places.items():
        print(f"{name}: {place}")


def status(args: argparse.Namespace) -> None:
    """Print what of the archives is in the data folder, and what would be fetched."""
    from i2r.data.fetch.stock import status_text

    print(status_text(args.names, args.data_root, content=args.check))


def add(verbs: argparse._SubParsersAction) -> None:
    """Register the commands."""
    tasks = verbs.add_parser("data", help="fetch, prepare, check and describe data sets").add_subparsers(
        required=True, metavar="COMMAND"
    )
    values = argparse.ArgumentParser(add_help=False)
    values.add_argument(
        "names", nargs="*", metavar="NAME", help="voc2012, sbd, ...: `i2r data status` lists them"
    )
    values.add_argument(
        "--data-root", type=Path, default=DATA_ROOT, metavar="DIR", help="the data folder (default: data)"
    )
    values.add_argument(
        "--check", action="store_true", help="read every unpacked file, instead of comparing sizes"
    )

    task = tasks.add_parser(
        "fetch", help="download the official archives, check and unpack them", parents=[values]
    )
    task.add_argument("--all", action="store_true", help="every archive that can be downloaded")
    task.add_argument("--offline", action="store_true", help="download nothing; say what to place where")
    task.add_argument(
        "--mirror", action="append", default=[], metavar="URL", help="folder with the same files, asked first"
    )
    task.set_defaults(function=fetch)

    task = tasks.add_parser(
        "status",
        help="print which archives are there, which are missing, and how large they are",
        parents=[values],
    )
    task.set_defaults(function=status)
    cli_prepare.add(tasks)
