"""The command `i2r`. Rules of the workflow run the same commands that people type."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from i2r import cli_data, cli_networks, cli_plan, cli_tracking
from i2r.cli_types import positive
from i2r.config.base import ParamsError
from i2r.config.experiment import STAGES
from i2r.config.load import PARAMS, PRESETS, load
from i2r.errors import as_sentences
from i2r.files import write_json, write_text
from i2r.pipeline.spec import RESULTS, JobError
from i2r.pipeline.steps import STEPS

CODE_VERSIONS = Path("tests/code_versions.json")


def run(args: argparse.Namespace) -> None:
    """Run one job."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    from i2r.pipeline.jobs import run_job

    signal.signal(signal.SIGTERM, stop)
    try:
        run_job(args.spec, args.step, args.again, args.attempt)
    except KeyboardInterrupt:
        print(
            f"i2r: {args.step} interrupted; when run again, it continues from its last saved state",
            file=sys.stderr,
        )
        sys.exit(130)


def stage(args: argparse.Namespace) -> None:
    from i2r.pipeline.stage import run_stage

    run_stage(args.name, args.cores, args.configfile)


def preset(args: argparse.Namespace) -> None:
    """Copy a preset to params.yaml."""
    known = {path.stem: path.read_text(encoding="utf-8") for path in sorted(PRESETS.glob("*.yaml"))}
    if args.name not in known:
        raise ParamsError(f"{args.name}: no such preset; the presets are {', '.join(known)}")
    if PARAMS.is_file() and not args.force and PARAMS.read_text(encoding="utf-8") not in known.values():
        raise ParamsError(
            "params.yaml: differs from every preset, and would be lost; keep a copy and use --force"
        )
    write_text(PARAMS, known[args.name])
    print(f"params.yaml is now preset {args.name}")


def show(args: argparse.Namespace) -> None:
    """Print the table of results and where everything is."""
    from i2r.pipeline.plan import make_plan

    made = make_plan(load(args.configfile))
    home = RESULTS / made.experiment / "report"
    if not (home / "table.md").is_file():
        raise JobError(f"{home}: no report yet; `snakemake` makes it")
    print((home / "table.md").read_text(encoding="utf-8"))
    print(f"{home / 'report.html'}: what the numbers say, figures, and how each number was made")
    print(f"{RESULTS / made.experiment}/: every result under a readable name")
    print("i2r ui: all runs in MLflow, on http://127.0.0.1:5000")


def export(args: argparse.Namespace) -> None:
    """Write an RO-Crate of a finished experiment."""
    from i2r.pipeline.plan import make_plan

    try:
        from i2r.export import export as write
    except ModuleNotFoundError as error:
        raise JobError(
            f"{error.name} is not installed; `pip install {error.name}` in this environment"
        ) from None
    made = make_plan(load(args.configfile))
    path = write(made, args.configfile or [PARAMS], args.to or RESULTS / f"{made.experiment}.crate.zip")
    print(f"wrote {path}")


def show_params(args: argparse.Namespace) -> None:
    """Print every value of the params, or of one method's, and where it comes from."""
    from i2r.config.show import print_params

    print_params(load(args.configfile), args.method, args.json)


def readings(_: argparse.Namespace) -> None:
    """Print the values of paper, released code and BAM for the options in which they differ."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from i2r.config.readings import BRACKETS, OPTIONS, READINGS, Option, says

    said = {reading: says(reading) for reading in READINGS}

    def cell(option: Option, reading: str) -> str:
        text = str(said[reading][option.key]).lower()
        return text if getattr(option, reading) is not None else f"({text})"

    table = Table("option", *READINGS, "where", box=box.SIMPLE)
    for option in OPTIONS:
        table.add_row(option.key, *(cell(option, reading) for reading in READINGS), option.where)
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    print(BRACKETS)


def write_docs(_: argparse.Namespace) -> None:
    from i2r.config.show import json_schema, params_page

    write_text(Path("docs/params.md"), params_page())
    write_json(Path("docs/params.schema.json"), json_schema())
    print("wrote docs/params.md and docs/params.schema.json")


def record_code(_: argparse.Namespace) -> None:
    from i2r.pipeline import digests as code

    write_json(CODE_VERSIONS, code.record())
    print(f"wrote {CODE_VERSIONS}")


IN_A_CLONE = (
    *(stage, preset, cli_plan.plan, show, export, write_docs, record_code),
    *(cli_tracking.track, cli_tracking.register, cli_tracking.ui),
)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="i2r", description="Few-shot segmentation, reproducible from data to report."
    )
    verbs = top.add_subparsers(required=True, metavar="COMMAND")
    values = argparse.ArgumentParser(add_help=False)
    values.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="params files to use instead of params.yaml; each overrides those before it",
    )

    verb = verbs.add_parser("run", help="run one job from its spec, as the rules of the Snakefile do")
    verb.add_argument("step", metavar="STEP", choices=STEPS, help=f"one of {', '.join(STEPS)}")
    verb.add_argument(
        "--spec",
        metavar="FILE",
        type=Path,
        required=True,
        help="results/specs/<step>/<key>.json, which `i2r plan` writes",
    )
    verb.add_argument("--again", action="store_true", help="run it even if its result is complete")
    verb.add_argument(
        "--attempt",
        metavar="N",
        type=positive,
        default=1,
        help="for Snakemake: number of the attempt (default: 1)",
    )
    verb.set_defaults(function=run)

    verb = verbs.add_parser("stage", help="run a stage of the pipeline, as dvc.yaml does", parents=[values])
    stages = [*STAGES, "all"]
    verb.add_argument("name", metavar="STAGE", choices=stages, help=f"one of {', '.join(stages)}")
    verb.add_argument(
        "--cores", metavar="N", default="all", help="cores that Snakemake may use (default: all)"
    )
    verb.set_defaults(function=stage)

    cli_plan.add(verbs, values)

    verb = verbs.add_parser("show", help="print the results and where the report is", parents=[values])
    verb.set_defaults(function=show)

    verb = verbs.add_parser("export", help="write an RO-Crate of a finished experiment", parents=[values])
    verb.add_argument(
        "--to", metavar="FILE", type=Path, help="file to write (default: results/<experiment>.crate.zip)"
    )
    verb.set_defaults(function=export)

    verb = verbs.add_parser("params", help="print every value and where it comes from", parents=[values])
    verb.add_argument(
        "--method",
        metavar="METHOD",
        help="print the values with which this method runs (default: the experiment's)",
    )
    verb.add_argument("--json", action="store_true", help="print the values alone, as JSON")
    verb.set_defaults(function=show_params)

    verb = verbs.add_parser("preset", help="copy a preset from workflow/presets to params.yaml")
    verb.add_argument("name", metavar="PRESET", help="a file of workflow/presets, without .yaml")
    verb.add_argument("--force", action="store_true", help="even if this loses changes in params.yaml")
    verb.set_defaults(function=preset)

    verb = verbs.add_parser(
        "readings", help="print what paper, released code and BAM's code say where they differ"
    )
    verb.set_defaults(function=readings)

    cli_tracking.add(verbs, values)
    cli_networks.add(verbs)
    cli_data.add(verbs)

    _add_dev(verbs)
    _describe(top)
    return top


def _add_dev(verbs: argparse._SubParsersAction) -> None:
    """Register the commands for developers."""
    verb = verbs.add_parser("dev", help="commands for developers")
    tasks = verb.add_subparsers(required=True, metavar="COMMAND")
    task = tasks.add_parser("write-docs", help="write docs/params.md and docs/params.schema.json")
    task.set_defaults(function=write_docs)
    task = tasks.add_parser(
        "record-code",
        help="record that the present code of each step gives the same numbers as before",
    )
    task.set_defaults(function=record_code)


def _describe(parser: argparse.ArgumentParser) -> None:
    """Let `--help` of each command say what it does: its line in the list of commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for listed in action._choices_actions:
                command = action.choices[listed.dest]
                command.description = f"{listed.help[0].upper()}{listed.help[1:]}."
                _describe(command)


def main(argv: list[str] | None = None) -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: `i2r plan >&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="replace")  # a locale may have no ² or ü
    with as_sentences():
        args = parser().parse_args(argv)
        if args.function in IN_A_CLONE and not Path("Snakefile").is_file():
            raise JobError(
                f"{Path.cwd()}: not in a clone of the project (there is no Snakefile); change to one"
            )
        args.function(args)


if __name__ == "__main__":
    main()
