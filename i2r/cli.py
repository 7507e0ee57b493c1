"""`i2r ...`: everything that a rule of the workflow runs is a command that a person can type."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from i2r.jobs import FUNCTIONS, JobError, run_job
from i2r.params import ParamsError


def run(args: argparse.Namespace) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        run_job(args.spec, args.step)
    except KeyboardInterrupt:
        print(
            f"i2r: {args.step} interrupted; run again, it goes on from its last saved state", file=sys.stderr
        )
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="i2r", description="Few-shot segmentation, reproducible from data to report."
    )
    verbs = top.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("run", help="do one job: what a rule of the Snakefile runs")
    verb.add_argument("step", choices=FUNCTIONS)
    verb.add_argument("--spec", type=Path, required=True, help="results/specs/<key>.json")
    verb.set_defaults(function=run)
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    try:
        args.function(args)
    except (ParamsError, JobError) as error:
        print(f"i2r: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
