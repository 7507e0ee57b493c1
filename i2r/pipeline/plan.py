"""The plan: the jobs that an experiment's targets need, each once, after its inputs.

Planning runs whenever the Snakefile is read, so it imports neither torch nor mlflow, and writes nothing. A job's key is
a hash of its step, its arguments, the params that the step reads, the version of its code and the keys of its inputs.
Names of methods, folders, devices and workers are not part of a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from i2r.config.experiment import STAGES
from i2r.config.load import Params
from i2r.pipeline.planner import Planner
from i2r.pipeline.spec import Spec
from i2r.pipeline.steps import STEPS

REPORT = "report"  # label of the report on all targets of `make`
PAPER = "paper"  # label of the report on all tables and figures of the paper


@dataclass(frozen=True)
class Plan:
    """All jobs of an experiment, by key, inputs first.

    Attributes:
        labels: key -> readable names of the job; methods that share a job each give it one.
        targets: target -> keys of all its jobs; REPORT -> keys of all jobs of the targets of `make`; PAPER -> those of
            the paper's tables and figures.
        stages: key -> stage, for the jobs of the targets of `make`.
    """

    params: Params
    jobs: dict[str, Spec]
    labels: dict[str, list[str]]
    targets: dict[str, list[str]]
    stages: dict[str, str]

    @property
    def experiment(self) -> str:
        return self.params.values.experiment

    def of(self, stage: str) -> list[Spec]:
        """The jobs of a stage; `all`: of every stage."""
        return [self.jobs[key] for key, own in self.stages.items() if stage in ("all", own)]

    def target(self, name: str) -> list[Spec]:
        return [self.jobs[key] for key in self.targets[name]]

    @property
    def requests(self) -> list[str]:
        """What can be asked for: everything, a stage, a target, or all targets of the paper."""
        return ["all", *STAGES, *self.params.values.targets, *({PAPER} & set(self.targets))]

    def needed(self, request: str) -> list[Spec] | None:
        """The jobs that one of `requests` needs, inputs first; None if it is none of them."""
        if request in self.params.values.targets or (request == PAPER and PAPER in self.targets):
            return self.target(request)
        if request not in self.requests:
            return None
        wanted = {spec.key for spec in self.of(request)}
        for key in reversed(self.jobs):
            if key in wanted:
                wanted |= {given.key for given in self.jobs[key].inputs.values()}
        return [spec for key, spec in self.jobs.items() if key in wanted]

    def why_none(self, request: str) -> str:
        """Why a request has no jobs: none of the methods of a target of the paper can run here, or it is unknown."""
        if impossible := self.params.impossible.get(request):
            reasons = "; ".join(dict.fromkeys(impossible.values()))
            return f"none of its methods can run in this experiment: {reasons}"
        return f"no such target or stage; choose one of {', '.join(self.requests)}"

    def views(self, key: str) -> list[str]:
        """Readable folders of a job, relative to results/."""
        spec = self.jobs[key]
        if spec.step == "report":
            return [f"{self.experiment}/{label}" for label in self.labels[key]]
        ablate = "ablate/" if self.stages.get(key) == "ablate" else ""
        return [f"{self.experiment}/{ablate}{spec.step}/{label}" for label in self.labels[key]]

    def named(self) -> dict[str, Spec]:
        """Readable folder, relative to results/ -> its job."""
        return {view: spec for key, spec in self.jobs.items() for view in self.views(key)}


def make_plan(params: Params) -> Plan:
    """Plan the jobs that the targets need.

    Raises:
        ParamsError: a weights file in the params is missing.
    """
    planner = Planner(params)
    targets: dict[str, list[str]] = {}

    def plan_targets(names: Iterable[str]) -> None:
        for name in names:
            target = params.values.targets[name]
            planner.add_report(name, [name], planner.runs(name, target), planner.baselines(name, target))
            targets[name] = list(planner.closure([planner.reports[name]]))

    plan_targets(params.own)
    report = planner.add_report(REPORT, params.made, *planner.rows_of(params.made))
    track = planner.add("track", {}, {}, {"report": report}, params.values.experiment, "")
    targets[REPORT] = list(planner.closure([track.key]))
    own = {key: dict(labels) for key, labels in planner.labels.items()}
    if params.paper:
        plan_targets(name for name in params.values.targets if name not in targets)
        report = planner.add_report(PAPER, params.paper, *planner.rows_of(params.paper))
        targets[PAPER] = list(planner.closure([report.key]))
    return Plan(
        params,
        planner.jobs,
        _distinct(planner.labels | own, planner.jobs, set(own)),
        targets,
        _stages(params, planner, targets),
    )


def _stages(params: Params, planner: Planner, targets: dict[str, list[str]]) -> dict[str, str]:
    """Stage of every job; trainings and evaluations that only ablation targets need are in the stage ablate."""
    main = {key for name in params.made if not params.values.targets[name].ablation for key in targets[name]}
    stages = {}
    for key in targets[REPORT]:
        step = STEPS[planner.jobs[key].step]
        ablation = step.name in ("train", "evaluate") and key not in main
        stages[key] = "ablate" if ablation else step.stage
    return {key: stage for name in STAGES for key, stage in stages.items() if stage == name}


def _distinct(
    labels: dict[str, dict[str, str]], jobs: dict[str, Spec], first: set[str]
) -> dict[str, list[str]]:
    """Labels by key, unique within a step: duplicates get the method's name and, if needed, part of the key.

    first: jobs whose labels do not depend on the others, which give way to them.
    """

    def used(keys: Iterable[str]) -> Counter[tuple[str, str]]:
        return Counter((jobs[key].step, label) for key in keys for label in labels[key])

    for mark in (lambda key, method: f"-{method}", lambda key, _: f"-{key[:6]}"):
        everywhere, among = used(labels), used(key for key in labels if key in first)
        labels = {
            key: {
                label + (mark(key, method) if often[jobs[key].step, label] > 1 else ""): method
                for label, method in own.items()
            }
            for key, own in labels.items()
            for often in [among if key in first else everywhere]
        }
    return {key: list(own) for key, own in labels.items()}
