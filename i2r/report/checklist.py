"""The Machine Learning Reproducibility Checklist, v2.0 of 7 April 2020 (J. Pineau), filled from the run.

Parts and items have the order and the words of the form. What the run does not know is answered so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from i2r.config.data_set import GENERATED
from i2r.pipeline.fetched import ROLE
from i2r.progress import duration
from i2r.report import cost
from i2r.report.finished import Finished
from i2r.report.results import Results
from i2r.report.text import Grid, counted, listed

TITLE = "Reproducibility checklist"
NOT_KNOWN = "Not known to the run"
CHECK = "Check if you include"
SOURCE = (
    "The Machine Learning Reproducibility Checklist, v2.0 of 7 April 2020 (J. Pineau, "
    "www.cs.mcgill.ca/~jpineau/ReproducibilityChecklist.pdf), in the words and the order of the form. It is not the "
    "paper checklist that NeurIPS has asked for since 2021. The answers are made from the manifests and the params of "
    "this run."
)


def grids(
    results: Results,
    labels: Mapping[str, str],
    commands: Mapping[str, str],
    left_out: Sequence[str],
    costs: pd.DataFrame,
) -> list[Grid]:
    """A table for each part of the checklist.

    Args:
        commands: target -> the command that makes it; "" -> the one that makes the whole report.
        left_out: a sentence for each image or class that was left out.
        costs: from cost.table.
    """
    made = list(results.jobs.values())
    parts = {
        "For all models and algorithms presented": _models(results, labels),
        "For any theoretical claim": {
            "A clear statement of the claim": "No theoretical claim is made.",
            "A complete proof of the claim": "No theoretical claim is made.",
        },
        "For all datasets used": _data(results, left_out),
        "For all shared code related to this work": _code(results, made, commands),
        "For all reported experimental results": _design(results) | _cost(made, costs),
    }
    found = []
    for title, answers in parts.items():
        rows = [[item, answer] for item, answer in answers.items()]
        found.append(Grid([("", CHECK), ("", "Answer")], rows, words=2, title=title))
    found[-1].note = SOURCE
    return found


# --- parts -----------------------------------------------------------------------------------------------------


def _models(results: Results, labels: Mapping[str, str]) -> dict[str, str]:
    names = [labels[name] for name in results.methods]
    readings = dict.fromkeys(method["reading"] for method in results.methods.values())
    return {
        "A clear description of the mathematical setting, algorithm, and/or model": (
            f"{listed(names)}: docs/paper-in-code.md, equation by equation. Every value is in the section How each "
            "number was made."
        ),
        "A clear explanation of any assumptions": (
            f"Where the paper leaves something open, the reading is {listed(list(readings))}: docs/method.md."
        ),
        "An analysis of the complexity (time, space, sample size) of any algorithm": (
            "Time and memory of each step are measured (section Cost). No analysis was made."
        ),
    }


def _data(results: Results, left_out: Sequence[str]) -> dict[str, str]:
    data = _jobs(results, "data")
    sizes = {
        f"images have {method['params']['data']['size']} pixels a side" for method in results.methods.values()
    }
    rules = {_rule(job) for job in _jobs(results, "lists")}
    excluded = " ".join(f"{text}." for text in left_out) or "No image and no class was excluded."
    return {
        "The relevant statistics, such as number of examples": _each(_statistics, data),
        "The details of train / validation / test splits": " ".join(_splits(results)),
        "An explanation of any data that were excluded, and all pre-processing step": (
            f"{excluded} {listed(sorted(rules))}; {listed(sorted(sizes))}. Augmentation is among the values of "
            "each method."
        ),
        "A link to a downloadable version of the dataset or simulation environment": _each(_origin, data),
        "For new data collected, a complete description of the data collection process, such as instructions to "
        "annotators and methods for quality control": (
            "Images are generated, with exact masks: docs/data.md."
            if any(_generated(job) for job in data)
            else "No data were collected."
        ),
    }


def _code(results: Results, made: Sequence[Finished], commands: Mapping[str, str]) -> dict[str, str]:
    commits = _seen(made, "commit")
    changed = any(job.environment.get("uncommitted_changes") for job in made)
    commit = (
        f"git {listed(commits)}{', with uncommitted changes' if changed else ''}" if commits else NOT_KNOWN
    )
    trained = len({row["train"] for row in results.params["runs"]})
    return {
        "Specification of dependencies": "envs/requirements.in, pinned in envs/constraints.txt; section Environment.",
        "Training code": f"i2r/steps/train.py and what it imports; commit: {commit}.",
        "Evaluation code": f"i2r/steps/evaluate.py and what it imports; commit: {commit}.",
        "(Pre-)trained model(s)": (
            f"{counted(trained, 'trained network')} in results/store/train, backbones in results/store/backbone. "
            f"Where they are published: {NOT_KNOWN.lower()}."
        ),
        "README file includes table of results accompanied by precise command to run to produce those results": (
            f"This report: `{commands['']}`. Below each table stands its own command."
        ),
    }


def _design(results: Results) -> dict[str, str]:
    params = results.params
    runs = params["runs"]
    trained, evaluated = ({row[end] for row in runs} for end in ("train", "evaluate"))
    seeds = sorted({row["seed"] for row in runs})
    draws = sorted({row["eval_seed"] for row in (*runs, *params["baselines"])})
    chosen = sorted(results.evaluations["checkpoint"].unique())
    return {
        "The range of hyper-parameters considered, method to select the best hyper-parameter configuration, and "
        "specification of all hyper-parameters used to generate results": (
            "This run searched none: every method has one value of each, in the section How each number was made. How "
            f"they were chosen: {NOT_KNOWN.lower()}. Checkpoint of a training: {listed(chosen)}."
        ),
        "The exact number of training and evaluation runs": (
            f"{counted(len(trained), 'training')} (seeds: {_numbers(seeds)}), "
            f"{counted(len(evaluated), 'evaluation')} of them, and "
            f"{counted(len({row['job'] for row in params['baselines']}), 'job')} with baselines (seeds of the "
            f"episodes: {_numbers(draws)})."
        ),
        "A clear definition of the specific measure or statistics used to report results": (
            "mIoU: intersection and union summed over the episodes of a class, mean over the classes of a fold; "
            "FB-IoU, cross-entropy and average precision: docs/statistics.md."
        ),
        "A description of results with central tendency (e.g. mean) & variation (e.g. error bars)": (
            "Means over folds and seeds. 95 % intervals: over query images, by a bootstrap with "
            f"{params['report']['bootstrap']} samples; over training seeds, by a t interval"
            f"{'' if len(seeds) > 1 else ' (not here: fewer than two seeds)'}. Deviations over evaluation seeds"
            f"{'' if len(draws) > 1 else ' (not here: fewer than two seeds)'}."
        ),
    }


def _cost(made: Sequence[Finished], costs: pd.DataFrame) -> dict[str, str]:
    steps = dict.fromkeys(job.step for job in made)
    times = {step: np.mean([job.cost["seconds"] for job in made if job.step == step]) for step in steps}
    average = ", ".join(f"{step} {duration(seconds)}" for step, seconds in times.items())
    whole = costs[(costs["target"] == cost.ALL) & (costs["step"] == cost.ALL)].iloc[0]
    # NaN if a job did not measure it
    hours, kwh = whole["gpu_hours"], whole["cpu_kwh"] + whole["gpu_kwh"]
    hardware = [
        f"{name.replace('_', ' ')} {listed(values)}"
        for name in ("device", "cores", "platform", "python", "torch")
        if (values := _seen(made, name))
    ]
    return {
        "The average runtime for each result, or estimated energy cost": (
            f"Average of a job: {average or NOT_KNOWN.lower()}. All jobs: {duration(3600 * whole['hours'])}, "
            f"GPU hours: {f'{hours:.2f}' if hours >= 0 else NOT_KNOWN.lower()}. "
            f"Energy: {f'{kwh:.3f} kWh' if kwh > 0 else NOT_KNOWN.lower()}."
        ),
        "A description of the computing infrastructure used": f"{'; '.join(hardware) or NOT_KNOWN}.",
    }


# --- what jobs say ---------------------------------------------------------------------------------------------


def _jobs(results: Results, step: str) -> list[Finished]:
    return [job for job in results.jobs.values() if job.step == step]


def _seen(made: Sequence[Finished], name: str) -> list[str]:
    """Different values of an entry of the environment, but those that are not known."""
    values = dict.fromkeys(job.environment.get(name) for job in made)
    return [str(value) for value in values if value is not None]


def _numbers(values: Sequence[int]) -> str:
    return listed(values) if values else "none"


def _generated(job: Finished) -> bool:
    return job.data_set["source"] == GENERATED


def _statistics(job: Finished) -> str:
    data = job.data_set
    counts = f"{data['images']['train']} training and {data['images']['val']} validation images"
    return f"{job.label}: {counts}, {len(data['classes'])} classes."


def _splits(results: Results) -> list[str]:
    """A sentence for each fold of each data set, and one about its test episodes."""
    found = []
    for job in _jobs(results, "lists"):
        lists: dict[str, Any] = job.json("lists.json")
        classes = f"{len(lists['train_classes'])} training and {len(lists['test_classes'])} test classes"
        images = f"{len(lists['train'])} training and {len(lists['test'])} test images"
        found.append(f"{job.label}: {classes}, {images}.")
    episodes = {
        f"{values['episodes']} test episodes for each fold and seed, protocol {values['protocol']}"
        for values in (method["params"]["evaluate"] for method in results.methods.values())
    }
    validated = any(method["params"]["train"]["validate_every"] for method in results.methods.values())
    said = "of held-out episodes of training classes" if validated else "none"
    return [*found, f"{listed(sorted(episodes))}. Validation during training: {said}."]


def _rule(job: Finished) -> str:
    """How lists are made from the data."""
    data = job.params["data"]
    return f"data.novel: {data['novel']} and data.min_area: {data['min_area']} (docs/data.md)"


def _origin(job: Finished) -> str:
    if _generated(job):
        origin = "generated by the pipeline from its params"
    elif ROLE in job.inputs:
        origin = "the official archives, which `snakemake data` fetches (docs/data.md)"
    else:
        origin = f"a folder of the user's; link: {NOT_KNOWN.lower()}"
    return f"{job.label}: {origin}; digest {job.data_set['digest']}."


def _each(said: Callable[[Finished], str], jobs: Sequence[Finished]) -> str:
    """A sentence for each of the jobs, equal ones once."""
    return " ".join(dict.fromkeys(map(said, jobs)))
