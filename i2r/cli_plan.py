"""The command `i2r plan`: every job with its state, and what those to come will cost."""

from __future__ import annotations

import argparse
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from i2r.cli_types import positive, whole
from i2r.config.base import ParamsError
from i2r.config.load import PARAMS, PRESETS, extended, load
from i2r.pipeline import estimate, gpus
from i2r.pipeline.estimate import Estimate, Estimates
from i2r.pipeline.plan import PAPER, Plan
from i2r.pipeline.spec import RESULTS, JobError, Spec
from i2r.pipeline.steps import STEPS
from i2r.progress import bytes_text, duration

SOURCES = {
    "measured": "measured, on the same job of another fold or seed",
    "scaled": "scaled, from a job with the same network and size",
    "reference": "measured elsewhere on such a card (i2r/pipeline/reference.csv)",
    "calculated": "calculated, at the peak rate of the card, so it is at least that",
}
STATES = ("done", "started", "again", "to do")


def plan(args: argparse.Namespace) -> None:
    """Print every job with its state, and totals; with --write write the files that DVC's stages depend on."""
    from i2r.pipeline import stage as stages
    from i2r.pipeline.fetched import preview
    from i2r.pipeline.store import Located
    from i2r.report.seeds import seeds_said

    made = stages.prepare(load(args.configfile))
    if args.write:
        _write(made, args.configfile or [PARAMS])
        return
    located, jobs = Located(made), _jobs(made, args.targets)
    changed = {spec.key for spec in stages.by_other_code(made, jobs)}
    states = {spec.key: located.state(spec) for spec in jobs}
    count = _gpus(args.gpus, made)
    done = estimate.records(RESULTS)
    estimates = Estimates(made, done, count > 0, args.card)
    expected = {spec.key: estimates.of(spec) for spec in jobs if states[spec.key] != "done"}
    print(f"{'state':8} {'stage':12} {'step':12} {'time':>9}  {'key':12}  name")
    for spec in jobs:
        state = states[spec.key]
        why = f": {located.problem(spec)}" if state == "again" else ""
        why += ", made by other code" if spec.key in changed and not why else ""
        time = _time(expected[spec.key]) if state != "done" else "-"
        stage = made.stages.get(spec.key, STEPS[spec.step].stage)
        labels = ", ".join(made.labels[spec.key])
        print(f"{state:8} {stage:12} {spec.step:12} {time:>12}  {spec.key}  {labels}{why}")
    counts = Counter(states.values())
    print(", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    for spec in jobs:
        if located.fetches(spec) and (said := preview(spec)[0]):
            print(said)
    todo = [spec for spec in jobs if spec.key in expected]
    cores = args.cores or os.cpu_count() or 1
    print(*totals(jobs, todo, expected, cores, count, args.card), sep="\n")
    for text in seeds_said(made, RESULTS, _targets(made, args.targets)):
        print(text)
    if changed:
        print(
            f"{len(changed)} made by other code than the present; `i2r run STEP --spec ... --again` makes one again"
        )


def _jobs(made: Plan, requests: Sequence[str]) -> list[Spec]:
    """The jobs that these targets and stages need together, inputs first."""
    keys = set()
    for request in requests:
        jobs = made.needed(request)
        if jobs is None:
            raise JobError(f"{request}: {made.why_none(request)}")
        keys |= {spec.key for spec in jobs}
    return [spec for key, spec in made.jobs.items() if key in keys]


def _targets(made: Plan, requests: Sequence[str]) -> list[str]:
    """The targets among these targets and stages, each once."""
    several = {"all": made.params.made, PAPER: made.params.paper}
    found = [name for request in requests for name in several.get(request, [request])]
    return [name for name in dict.fromkeys(found) if name in made.params.values.targets]


def _write(made: Plan, configfiles: Sequence[Path]) -> None:
    from i2r.pipeline.stage import write_plan

    for path in (below for file in configfiles for below in extended(file)):
        if path.resolve().parent != PRESETS.resolve():
            raise ParamsError(
                f"{path}: DVC does not track this file; params.yaml can only extend files in {PRESETS}/"
            )
    write_plan(made)


def _gpus(asked: int | None, made: Plan) -> int:
    """Number of GPUs that jobs can use at a time."""
    device = made.params.values.runtime.device
    if asked is None and gpus.needed(device):
        return max(1, len(gpus.present())) if device in ("auto", "cuda") else 1
    return asked or 0


def totals(
    jobs: Sequence[Spec],
    todo: Sequence[Spec],
    expected: dict[str, Estimate],
    cores: int,
    count: int,
    card: str | None,
) -> list[str]:
    """Lines about what is to run: runs, time by step, GPU hours, memory, disk and wall time.

    Args:
        jobs: all.
        todo: those that will run.
        expected: key -> estimate, of those.
        cores, count: processor cores and GPUs to run on.
        card: the GPU whose times were asked for, or None.
    """
    runs = {(row["train"], row["evaluate"]) for spec in jobs for row in spec.params.get("runs", ())}
    lines = [f"{len(runs)} run{'s' * (len(runs) != 1)}, {len(jobs)} jobs"]
    if not todo:
        return lines
    by_step: dict[str, list[Spec]] = defaultdict(list)
    for spec in todo:
        by_step[spec.step].append(spec)
    for step, own in [*by_step.items(), ("in all", todo)]:
        lines.append(f"  {len(own):5} {step:12} {_sum([expected[spec.key] for spec in own])}")
    if count:
        on_gpu = [expected[spec.key] for spec in todo if STEPS[spec.step].torch]
        lines.append(f"GPU time: {_sum(on_gpu)}")
    peak = max((found.memory_mb for found in expected.values() if found.memory_mb), default=None)
    lines.append(f"memory of the largest job: {f'{peak / 1024:.1f} GB' if peak else 'unknown'}")
    size, lacking = estimate.total(found.bytes for found in expected.values())
    lines.append(f"disk: {_with_unknown(bytes_text(size) if lacking < len(todo) else '', lacking)}")
    seconds = {key: found.seconds or 0.0 for key, found in expected.items()}
    place = f"{count} GPU{'s' if count > 1 else ''} and {cores} cores" if count else f"{cores} cores"
    wall = estimate.wall_time(todo, seconds, cores, count)
    lines.append(f"wall time on {place}: {_sum(list(expected.values()), wall)}")
    counts = Counter(found.source for found in expected.values())
    lines += [
        f"  {counts[source]} of these times: {said}" for source, said in SOURCES.items() if counts[source]
    ]
    if counts[""]:
        advice = f"; --card {'|'.join(estimate.cards())} calculates a bound for trainings"
        advice = advice if count and not card else ""
        lines.append(f"  {counts['']} of these times: unknown, no such job has finished here{advice}")
    return lines


def _time(found: Estimate) -> str:
    if found.seconds is None:
        return "unknown"
    return (">" if found.source == "calculated" else "") + duration(found.seconds)


def _sum(found: Sequence[Estimate], seconds: float | None = None) -> str:
    """The known times together, or `seconds` that they take side by side."""
    known, lacking = estimate.total(one.seconds for one in found)
    bound = "at least " if any(one.source == "calculated" for one in found) else ""
    text = bound + duration(known if seconds is None else seconds)
    return _with_unknown(text if lacking < len(found) else "", lacking)


def _with_unknown(known: str, lacking: int) -> str:
    """`1 h 2 min`, `1 h 2 min and 4 jobs unknown` or `unknown`."""
    if not known:
        return "unknown"
    return known + (f" and {lacking} job{'s' if lacking > 1 else ''} unknown" if lacking else "")


def add(verbs: argparse._SubParsersAction, values: argparse.ArgumentParser) -> None:
    """Register the command. `values`: the parser of --configfile."""
    verb = verbs.add_parser(
        "plan", help="print every job that the params need, its state and its time", parents=[values]
    )
    verb.add_argument(
        "targets",
        nargs="*",
        default=["all"],
        metavar="TARGET",
        help="targets, stages, `paper` or `all` (default: all)",
    )
    verb.add_argument("--gpus", type=whole, metavar="N", help="plan for N GPUs (default: those here)")
    verb.add_argument("--cores", type=positive, metavar="N", help="plan for N cores (default: those here)")
    verb.add_argument(
        "--card",
        choices=estimate.cards(),
        help="for times that were not measured here: those of this card, measured elsewhere or at its peak rate",
    )
    verb.add_argument("--write", action="store_true", help="write results/<experiment>/plan, for DVC")
    verb.set_defaults(function=plan)
