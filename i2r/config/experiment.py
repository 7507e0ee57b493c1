"""The schema of a params file: methods, targets, the report, and how to run.

An experiment has methods. Each runs with the sections of `RunParams` (config/schema.py): those of the experiment,
overridden by the method's own values.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from i2r.config.base import Count, NotNegative, Once, OneLine, Positive, Rate, Section, must_be
from i2r.config.networks import I2ROptions
from i2r.config.schema import Sections

DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
NAME = r"^[a-z0-9][a-z0-9._-]{0,59}$"
NAME_SAID = (
    "names are lower-case letters, digits, dots, hyphens and underscores, begin with a letter or digit, "
    "and have at most 60 characters"
)
# Entries of results/ that an experiment cannot have as its name, stages of the pipeline, other names of rules and
# folders that a target cannot have, and forms in which a target is shown.
RESERVED = ("store", "specs", "state", "logs", "benchmarks", "mlartifacts", "mlruns", "mlflow.db")
STAGES = ("data", "backbone", "base_learner", "cam_head", "train", "evaluate", "ablate", "report")
OTHERS = ("all", "paper", "view", "plan", "fetch", "lists", "episodes", "controls", "baselines", "track")
FORMS = {
    "table1": "i2r.report.forms.table1:show",
    "table3": "i2r.report.forms.table3:show",
    "table4": "i2r.report.forms.table4:show",
    "table5": "i2r.report.forms.ratios:show",
    "table6": "i2r.report.forms.variants:show",
    "table-s1": "i2r.report.forms.variants:show",
    "table-s2": "i2r.report.forms.variants:show",
    "figure3": "i2r.report.forms.found:show_kinds",
    "figure4": "i2r.report.forms.variants:show",
    "figure5": "i2r.report.forms.variants:show",
    "figure-s1": "i2r.report.forms.found:show_failures",
    "figure-s3": "i2r.report.forms.ratios:show",
}
WITHOUT_METHODS = ("table4",)  # forms that can show baselines alone


class Target(Section):
    """What a table or figure shows: methods, folds, shots and seeds. `snakemake NAME` makes this target alone."""

    form: Literal[tuple(FORMS)] | None = Field(
        None, description="form in which the report shows it; null: the form with the target's name"
    )
    methods: Annotated[list[str], Once] = Field(
        [],
        description=f"names from methods, in the order of the rows; only {', '.join(WITHOUT_METHODS)} can have none",
    )
    folds: Annotated[list[Count], Once] | None = Field(
        None, min_length=1, description="test folds; null: all of the data set"
    )
    shots: Annotated[list[Positive], Once] = Field(
        [1], min_length=1, description="support images per episode"
    )
    seeds: Annotated[list[Count], Once] = Field(
        [0], min_length=1, description="training seeds of the meta learner"
    )
    evaluation_seeds: Annotated[list[Count], Once] | None = Field(
        None, min_length=1, description="evaluation seeds; null: evaluate.seeds of each method"
    )
    ablation: bool = Field(
        False,
        description="put the trainings and evaluations that only this target needs into the stage ablate",
    )
    baselines: str | None = Field(
        None, description="method on whose frozen networks the baselines run; null: no baselines"
    )


class PaperRuns(Section):
    """The runs of the paper's tables and figures (i2r/paper/*.yaml) that the experiment does not declare itself."""

    folds: Annotated[list[Count], Once] | None = Field(
        None, min_length=1, description="test folds; null: all of the data set"
    )
    shots: Annotated[list[Positive], Once] | None = Field(
        None, min_length=1, description="only these of a table's shots; null: all of them"
    )
    seeds: Annotated[list[Count], Once] = Field(
        [0], min_length=1, description="training seeds of the meta learner"
    )
    evaluation_seeds: Annotated[list[Count], Once] | None = Field(
        None, min_length=1, description="evaluation seeds; null: evaluate.seeds of each method"
    )


class Report(Section):
    """The report; no value here is part of another result's key."""

    pictures: Count = Field(6, description="episodes per fold to show, at most evaluate.pictures")
    bootstrap: Positive = Field(1000, description="bootstrap samples of the query images for an interval")
    equivalence: Rate = Field(
        1.0,
        description="points of mIoU up to which a difference counts as none; to be decided before the run",
    )
    reproduced: Rate = Field(
        1.0,
        description="points of mIoU or FB-IoU from a published number within which a result reproduces it; to be "
        "decided before the run",
    )
    reproduced_share: Rate = Field(
        0.1, description="the same for cross-entropies and mask ratios, as a share of the published number"
    )
    margin: NotNegative = Field(10.0, description="points of mIoU that I2R should be above the best baseline")


class Runtime(Section):
    """How to run; no value here changes a number."""

    device: str = Field(
        "auto", description="auto, cpu, cuda or cuda:N", json_schema_extra={"pattern": DEVICE}
    )
    jobs_per_gpu: Positive = Field(1, description="jobs that share a GPU")
    processes: Positive = Field(
        1,
        description="processes, each with a GPU of its own, that share the batch of a training of the base learner or "
        "of a meta learner",
    )
    cuda_graphs: bool = Field(
        False,
        description="record a training step once and replay it, on a GPU and with new views in each step",
    )
    workers: Count = Field(0, description="processes that load images")
    save_every: Rate = Field(60, description="seconds between saved states")
    cache_gb: NotNegative = Field(4, description="memory for cached features, GB")
    data_root: str = Field(
        "data",
        description="folder for official archives and what is made from them; runs and users can share it",
    )
    mirrors: list[str] = Field(
        [], description="addresses of folders with the official files, which are asked first"
    )
    offline: bool = Field(False, description="download nothing; say what is missing and where to put it")
    archives: str | None = Field(
        None, description="table of archives instead of i2r/data/fetch/archives.csv, with the same columns"
    )

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        if not re.fullmatch(DEVICE, device):
            raise ValueError(f"must be auto, cpu, cuda or cuda:N, got {device!r}")
        return device

    @model_validator(mode="after")
    def _processes(self) -> Self:
        if self.processes > 1 and self.cuda_graphs:
            raise ValueError("cuda_graphs: a step of several processes cannot be recorded; set it to false")
        if self.processes > 1 and ":" in self.device:
            raise ValueError(
                f"device: {self.device!r} is one GPU, but there are {self.processes} processes; set cuda"
            )
        return self


class MethodParams(Section):
    """A method: a label, its own reading if any, and values that differ from the experiment's sections."""

    label: OneLine | None = Field(None, description="name in tables; null: the method's name")
    reading: Literal["paper", "released", "bam"] | None = Field(
        None, description="reading of its sections; null: the experiment's"
    )
    trained_as: str | None = Field(
        None,
        description="method whose networks it evaluates, on data of its own; it can then differ in data and evaluate "
        "only; null: it has networks of its own",
    )
    data: dict[str, Any] = Field(default_factory=dict, description="values that differ from data")
    backbone: dict[str, Any] = Field(default_factory=dict, description="values that differ from backbone")
    base_learner: dict[str, Any] = Field(
        default_factory=dict, description="values that differ from base_learner"
    )
    cam_head: dict[str, Any] = Field(default_factory=dict, description="values that differ from cam_head")
    network: Annotated[dict[str, Any] | str, must_be("a network's name or a mapping of its options")] = Field(
        default_factory=dict,
        description="values that differ from network; with another name, from that network's defaults",
    )
    train: dict[str, Any] = Field(default_factory=dict, description="values that differ from train")
    evaluate: dict[str, Any] = Field(default_factory=dict, description="values that differ from evaluate")
    baselines: dict[str, Any] = Field(default_factory=dict, description="values that differ from baselines")


class Experiment(Sections):
    """A complete params file."""

    experiment: str = Field(description="name of the experiment; results/<experiment>/ has its results")
    reading: Literal["paper", "released", "bam"] = Field(
        "paper", description="source of every value written as `reading`"
    )
    threads: Positive = Field(
        1,
        description="CPU threads of a job; part of the keys, because more threads round sums differently",
    )
    methods: dict[str, MethodParams] = Field(
        default_factory=lambda: {"i2r": MethodParams()},
        description="name: values that differ from the sections",
    )
    targets: dict[str, Target] = Field(default_factory=dict, description="name: what a table or figure shows")
    make: Annotated[list[str], Once] = Field(
        [],
        description="targets that snakemake, make run and dvc repro make when called without one; empty: all that the "
        "experiment declares",
    )
    paper: PaperRuns = Field(default_factory=PaperRuns, description="the paper's tables and figures")
    report: Report = Field(default_factory=Report, description="the report")
    runtime: Runtime = Field(default_factory=Runtime, description="how to run")

    @model_validator(mode="after")
    def _names(self) -> Self:
        named = {"experiment": [self.experiment], "methods": self.methods, "targets": self.targets}
        for where, names in named.items():
            for name in names:
                if not re.fullmatch(NAME, name):
                    raise ValueError(f"{where}: {name!r} is not a valid name: {NAME_SAID}")
        if self.experiment in RESERVED:
            raise ValueError(
                f"experiment: {self.experiment!r} is reserved for a folder of results/; use another name"
            )
        for name in self.targets:
            if name in (*STAGES, *OTHERS) or name.endswith("_job"):
                raise ValueError(
                    f"targets: {name!r} is the name of a stage, a folder or a rule; use another name"
                )
        return self

    @model_validator(mode="after")
    def _targets(self) -> Self:
        for name, target in self.targets.items():
            baselines = [] if target.baselines is None else [target.baselines]
            for method in (*target.methods, *baselines):
                if method not in self.methods:
                    raise ValueError(
                        f"targets.{name}: {method!r} is not among methods ({', '.join(self.methods)})"
                    )
            if not target.methods and not baselines:
                raise ValueError(f"targets.{name}: has neither methods nor baselines, so it shows nothing")
            if target.form is None and name not in FORMS:
                raise ValueError(f"targets.{name}.form: missing; the forms are {', '.join(FORMS)}")
            form = target.form or name
            if not target.methods and form not in WITHOUT_METHODS:
                raise ValueError(
                    f"targets.{name}.methods: missing; only the form {', '.join(WITHOUT_METHODS)} shows baselines "
                    f"alone, and this target has the form {form}"
                )
        for name in self.make:
            if name not in self.targets:
                raise ValueError(f"make: {name!r} is not among targets ({', '.join(self.targets)})")
        if not self.targets:
            raise ValueError("targets: missing, so there is nothing to make")
        return self


NETWORK_DEFAULT = I2ROptions
