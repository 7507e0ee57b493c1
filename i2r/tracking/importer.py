"""The runs of jobs in MLflow, and their parents as far as runs need them; parents.py writes what stands in those."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)

from i2r.files import canonical
from i2r.report.finished import Finished
from i2r.tracking.database import given_uri, open_database
from i2r.tracking.runs import (
    finished_jobs,
    flat,
    made_with,
    metric_name,
    milliseconds,
    numbers,
    running_jobs,
    scored,
    scores_of,
    setting,
    steps_of,
)

KEY, STATE, STEPS, CONFIG = "i2r.key", "i2r.state", "i2r.steps_logged", "i2r.configuration"
DESCRIBED = "i2r.described"
NOTE = "mlflow.note.content"  # shown above a run, as Markdown
IMPORTED = "imported, 3"  # with the version of what an import writes: runs of an older one are completed
KIND = "mlflow.experimentKind"
EXTERNAL = "mlflow.model.isExternal"
MOST_LINKS = 20  # in a note
METRICS_A_CALL, PARAMS_A_CALL = 1000, 100  # MLflow's limits


def run_name(job: Finished) -> str:
    """`evaluate fold 0 seed 0`: a name that is unique among the runs of a parent, after the score if there is one."""
    if job.step == "report":
        return f"report {job.params['experiment']}"
    named = {"fold": "fold", "eval_seed": "seed"} | ({"shot": "shot"} if job.step == "episodes" else {})
    words = [job.step, *(f"{word} {job.args[name]}" for name, word in named.items() if name in job.args)]
    return scored(" ".join(words), job.scores[""].get("miou") if job.step == "evaluate" else None)


class Importer:
    """One import: the client, the finished jobs, and the runs that the database already has."""

    def __init__(self, results: Path):
        self.results = results
        self.local = given_uri() is None
        self.client = open_database(results)
        self.jobs = finished_jobs(results)
        self.known = {job.key: job for job in self.jobs}
        self.experiments = self.all_experiments()
        self.models: dict[str, str] = {}  # key of a training -> id of MLflow's model for its weights
        self.runs: dict[str, Run] = {}  # by key of the job or name of the configuration
        for run in self.all_runs():
            name = run.data.tags.get(KEY) or run.data.tags.get(CONFIG)
            if name:
                self.runs[name] = run

    def all_experiments(self) -> dict[str, str]:
        """Name -> id. An experiment in MLflow's trash would keep its name from being used, so ours are restored."""
        found = {}
        for experiment in self.client.search_experiments(view_type=ViewType.ALL):
            if experiment.lifecycle_stage == "deleted":
                if KIND not in experiment.tags:
                    continue
                self.client.restore_experiment(experiment.experiment_id)
                print(
                    f"MLflow: experiment {experiment.name} was in the trash, and is restored with its runs; to be rid "
                    "of runs, remove their folders in results/store/",
                    file=sys.stderr,
                )
            found[experiment.name] = experiment.experiment_id
        return found

    def all_runs(self) -> Iterator[Run]:
        token = None
        while self.experiments:
            page = self.client.search_runs(
                list(self.experiments.values()), max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def run(self, running: bool) -> int:
        """Import what is new; returns the number of newly imported runs. Parents get none of it yet."""
        new = [job for job in self.jobs if not self.is_done(job.key)]
        for job in new:
            self.add(job)
        live = [job for job in running_jobs(self.results) if job.key not in self.known] if running else []
        for job in live:
            self.follow(job)
        self.end_abandoned({job.key for job in running_jobs(self.results)})
        if new:
            print(f"MLflow: {len(new)} run(s) imported into {self.client.tracking_uri}", file=sys.stderr)
        return len(new)

    def is_done(self, key: str) -> bool:
        return key in self.runs and self.runs[key].data.tags.get(STATE) == IMPORTED

    # --- runs ----------------------------------------------------------------------------------------------

    def experiment(self, job: Finished) -> str:
        """The experiment of a job, one for each data set; created if it is missing."""
        name = "reports" if job.step == "report" else setting(job, self.known)["dataset"] or "networks"
        if name not in self.experiments:
            place = (self.results / "mlartifacts" / name).as_uri() if self.local else None
            kind = {KIND: "custom_model_development"}  # so that the UI shows training metrics
            self.experiments[name] = self.client.create_experiment(name, place, kind)
        return self.experiments[name]

    def configuration(self, job: Finished) -> tuple[str, str]:
        """(identity, name) of the parent: identified by shot, seed and params of a training, or params of baselines.

        The name is that of its first run, without fold and evaluation seed.
        """
        where = setting(job, self.known)
        if job.step in ("train", "evaluate", "baselines"):
            trained = self.known.get(job.inputs.get("train", ""), job)
            shared = {name: trained.args[name] for name in ("shot", "seed") if name in trained.args}
            kind = "baselines" if job.step == "baselines" else "method"
            start = "baselines " if job.step == "baselines" else ""
            name = start + re.sub(r"-(fold|eval)\d+", "", job.label) + f" ({where['backbone']})"
            return canonical([where, kind, shared, made_with(trained, self.known)]), name
        return canonical([where["dataset"], "frozen"]), "data and frozen networks"

    def parent(self, job: Finished) -> str:
        """Run id of the parent of a job's run, which is created if it is missing."""
        identity, name = self.configuration(job)
        config = hashlib.sha256(identity.encode()).hexdigest()[:12]
        if config not in self.runs:
            tags = {CONFIG: config, STATE: "configuration"} | self.where(job)
            tags |= {k: str(job.args[k]) for k in ("shot", "seed") if k in job.args}
            start = milliseconds(job.times["started"])
            run = self.client.create_run(self.experiment(job), start_time=start, tags=tags, run_name=name)
            self.client.set_terminated(run.info.run_id, "FINISHED", start)
            self.runs[config] = run
        return self.runs[config].info.run_id

    def begin(self, job: Finished) -> tuple[str, int]:
        """(run id, last logged step) of a job's run, which is created if it is missing."""
        if job.key not in self.runs:
            tags = {
                KEY: job.key,
                STATE: "running",
                "step": job.step,
                "files": f"results/{job.store}",
                "mlflow.source.name": f"i2r run {job.step}",
                "mlflow.source.type": "LOCAL",
            }
            tags |= {name: str(value) for name, value in job.args.items()} | self.where(job)
            if job.step != "report":
                tags["mlflow.parentRunId"] = self.parent(job)
            start, name = milliseconds(job.times["started"]), run_name(job)
            self.runs[job.key] = self.client.create_run(self.experiment(job), start, tags, name)
        run = self.runs[job.key]
        run_id = run.info.run_id
        if DESCRIBED not in run.data.tags:
            self.log_dataset(job, run_id)
            # "runs": the runs that a report shows, which its tables name
            params = {name: value for name, value in flat(job.params) if name != "runs"}
            self.log_params(run_id, params | job.args)
            self.client.set_tag(run_id, DESCRIBED, "yes")
        return run_id, int(run.data.tags.get(STEPS, -1))

    def where(self, job: Finished) -> dict[str, str]:
        """Tags `dataset` and `backbone`, if the job has them."""
        return {name: value for name, value in setting(job, self.known).items() if value}

    def log_steps(self, job: Finished, run_id: str, after: int) -> None:
        """Log new steps; each call also sets the tag with the last logged step."""
        metrics = steps_of(job, after)
        for at in range(0, len(metrics), METRICS_A_CALL):
            part = [Metric(*values) for values in metrics[at : at + METRICS_A_CALL]]
            # a step that is split between two calls is logged again completely after an interruption
            done = part[-1].step if at + METRICS_A_CALL >= len(metrics) else part[-1].step - 1
            self.client.log_batch(run_id, metrics=part, tags=[RunTag(STEPS, str(done))])

    def log_params(self, run_id: str, values: dict[str, Any]) -> None:
        params = [Param(name, str(value)) for name, value in values.items()]
        for at in range(0, len(params), PARAMS_A_CALL):
            self.client.log_batch(run_id, params=params[at : at + PARAMS_A_CALL])

    def dataset(self, job: Finished) -> Dataset | None:
        """The data set of a job, with its digest; None for a job without one."""
        inputs = [self.known[key] for key in (job.key, *job.inputs.values()) if key in self.known]
        data = next((found for found in inputs if found.step == "data"), None)
        if data is None or job.step == "report":
            return None
        summary = data.data_set
        profile = {f"{part} images": count for part, count in summary["images"].items()} | {
            "classes": len(summary["classes"])
        }
        return Dataset(
            name=setting(job, self.known)["dataset"],
            digest=summary["digest"][:12],
            source_type="local",
            source=json.dumps({"uri": f"results/{data.store}"}),
            profile=json.dumps(profile | {"sha256": summary["digest"]}),
        )

    def log_dataset(self, job: Finished, run_id: str) -> None:
        """Log the data set of a job on its run, or on its parent's."""
        if dataset := self.dataset(job):
            context = "evaluation" if job.step in ("evaluate", "baselines", "episodes") else "training"
            tags = [InputTag("mlflow.data.context", context)]
            self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])

    def link(self, key: str | None) -> str:
        """A link of the UI to the run of a job, as Markdown; empty for a job that is not imported."""
        if key not in self.runs:
            return ""
        info = self.runs[key].info
        return f"[{info.run_name}](#/experiments/{info.experiment_id}/runs/{info.run_id})"

    def note(self, job: Finished) -> str:
        """Where a job's files are, and links to the runs that it was made from, its training first."""
        keys = sorted(job.inputs.values(), key=lambda key: key != job.inputs.get("train"))
        links = list(dict.fromkeys(link for key in keys if (link := self.link(key))))
        said = f", made from {' · '.join(links)}" if 0 < len(links) <= MOST_LINKS else ""
        return f"`results/{job.store}`{said}"

    def model(self, key: str) -> str | None:
        """Id of MLflow's model that stands for the weights of an imported training, which stay in results/."""
        if key not in self.runs:
            return None
        if key not in self.models:
            outputs = self.runs[key].outputs
            if outputs and outputs.model_outputs:
                self.models[key] = outputs.model_outputs[0].model_id
        return self.models.get(key)

    def log_model(self, job: Finished, run_id: str) -> None:
        """Make the model of a training, if it is missing; give an evaluation that of its training, with the scores."""
        if job.step == "train" and self.model(job.key) is None:
            tags = {KEY: job.key, EXTERNAL: "true", "weights": f"results/{job.store}/weights.safetensors"}
            made = self.client.create_logged_model(self.experiment(job), metric_name(job.label), run_id, tags)
            self.client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
            self.client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
            self.models[job.key] = made.model_id
        elif "train" in job.inputs and (model := self.model(job.inputs["train"])):
            self.client.log_inputs(run_id, models=[LoggedModelInput(model)])
            if job.step == "evaluate" and (dataset := self.dataset(job)):
                end, scores = milliseconds(job.times["ended"]), job.scores[""]
                found = {name: scores[name] for name in ("miou", "fb_iou") if scores.get(name) is not None}
                about = {"model_id": model, "dataset_name": dataset.name, "dataset_digest": dataset.digest}
                metrics = [
                    Metric(name, value, end, 0, run_id=run_id, **about) for name, value in found.items()
                ]
                self.client.log_batch(run_id, metrics=metrics)

    def add(self, job: Finished) -> None:
        """Import a finished job; an interrupted import is continued."""
        run_id, last = self.begin(job)
        if "metrics.jsonl" in job.products:
            self.log_steps(job, run_id, last)
        end = milliseconds(job.times["ended"])
        found = numbers(job.metrics) | (scores_of(job) if job.step in ("evaluate", "baselines") else {})
        found["job_seconds"] = float(job.times["seconds"])
        if job.cost.get("memory_mb"):
            found["peak_memory_mb"] = float(job.cost["memory_mb"])
        # metrics with a curve have their last value already, as have those logged by an interrupted import
        logged = {name for name, *_ in steps_of(job, -1)} | set(self.runs[job.key].data.metrics)
        metrics = [Metric(name, value, end, 0) for name, value in found.items() if name not in logged]
        tags = {NOTE: self.note(job)}
        tags |= {
            f"environment.{name}": str(value) for name, value in job.environment.items() if value is not None
        }
        if commit := job.environment.get("commit"):
            tags["mlflow.source.git.commit"] = commit
        if weights := job.products.get("weights.safetensors"):
            tags["weights"] = f"results/{job.store}/weights.safetensors"
            tags["weights.sha256"] = weights
        marks = [RunTag(name, value) for name, value in tags.items()]
        self.client.log_batch(run_id, metrics=metrics[:METRICS_A_CALL], tags=marks)
        self.log_model(job, run_id)
        self.log_files(job, run_id)
        self.client.set_terminated(run_id, "FINISHED", end)
        self.client.set_tag(run_id, STATE, IMPORTED)

    def log_files(self, job: Finished, run_id: str) -> None:
        """Log small files and figures, without weights."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            small = ["manifest.json", "scores.json", "episodes.csv"]
            if job.step == "report":
                small += [file for file in job.products if file != "figures"]
                shutil.copytree(job.folder / "figures", folder / "figures")
            for file in small:
                if (job.folder / file).is_file():
                    shutil.copy(job.folder / file, folder)
            if job.step == "evaluate" and (job.folder / "pictures.npz").is_file():
                from i2r.report.pictures import episode_figure

                episode_figure(job.folder / "pictures.npz", folder / "episodes.png", rows=6)
            self.client.log_artifacts(run_id, str(folder))

    # --- running and abandoned jobs --------------------------------------------------------------------------

    def follow(self, job: Finished) -> None:
        """Log the new steps of a running job."""
        run_id, last = self.begin(job)
        self.client.update_run(run_id, status="RUNNING")
        self.log_steps(job, run_id, last)

    def end_abandoned(self, live: set[str]) -> None:
        """Mark runs as killed whose jobs were stopped and given up; `live`: keys with a state folder."""
        for key, run in self.runs.items():
            tags = run.data.tags
            if (
                tags.get(STATE) == "running"
                and run.info.status == "RUNNING"
                and key not in live | set(self.known)
            ):
                self.client.set_terminated(run.info.run_id, "KILLED")
