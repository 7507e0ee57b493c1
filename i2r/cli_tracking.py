"""The commands of MLflow: `i2r track`, `i2r register` and `i2r ui`."""

from __future__ import annotations

import argparse
import sys

from i2r.cli_types import port, positive, whole
from i2r.config.base import ParamsError
from i2r.config.load import load
from i2r.pipeline.spec import RESULTS, JobError


def track(_: argparse.Namespace) -> None:
    """Import all finished runs into MLflow, if it is installed."""
    from i2r.steps.track import import_runs

    if import_runs(RESULTS)["imported"] is None:
        sys.exit(1)


def register(args: argparse.Namespace) -> None:
    """Put the best network of a method into MLflow's model registry."""
    try:
        from i2r.tracking.registry import register as add
    except ModuleNotFoundError as error:
        raise JobError(f"{error.name} is not installed; `pip install mlflow` in this environment") from None
    params = load(args.configfile)
    if args.method not in params.methods:
        raise ParamsError(f"{args.method!r} is not among methods ({', '.join(params.methods)})")
    made = add(RESULTS, params.values.experiment, args.method, args.shot, args.fold)
    print(made.description)
    print(
        f"models:/{made.name}/{made.version}: `mlflow models serve -m` serves it, `mlflow.pyfunc.load_model` loads it"
    )


def ui(args: argparse.Namespace) -> None:
    """Serve MLflow with all runs, including those in progress."""
    try:
        from i2r.tracking.ui import ui as serve
    except ModuleNotFoundError as error:
        raise JobError(f"{error.name} is not installed; `pip install mlflow` in this environment") from None
    serve(RESULTS, args.port)


def add(verbs: argparse._SubParsersAction, values: argparse.ArgumentParser) -> None:
    """Register the commands. `values`: the parser of --configfile."""
    verb = verbs.add_parser("track", help="import finished runs into MLflow")
    verb.set_defaults(function=track)

    verb = verbs.add_parser(
        "register", help="put the best network of a method into MLflow's model registry", parents=[values]
    )
    verb.add_argument("method", metavar="METHOD", help="its name in the params file")
    verb.add_argument("--shot", type=positive, help="of trainings with this number of shots (default: any)")
    verb.add_argument("--fold", type=whole, help="of trainings of this fold (default: any)")
    verb.set_defaults(function=register)

    verb = verbs.add_parser("ui", help="serve MLflow with all runs on this machine")
    verb.add_argument("--port", metavar="N", type=port, default=5000, help="port (default: 5000)")
    verb.set_defaults(function=ui)
