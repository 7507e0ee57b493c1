"""`i2r register`: the best network of a method in MLflow's model registry, as a model that needs nothing else."""

from __future__ import annotations

import csv
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
from mlflow import MlflowClient, pyfunc
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

import i2r
from i2r.files import naming_the_disk, sha256
from i2r.pipeline.spec import JobError
from i2r.predict import load
from i2r.tracking import served
from i2r.tracking.database import open_database
from i2r.tracking.importer import KEY
from i2r.tracking.track import track

BEST = "best"  # alias of the version that was registered last
FROM_BEST = "best.safetensors"  # of a training that is evaluated with its best weights


def register(results: Path, experiment: str, method: str, shot: int | None, fold: int | None) -> ModelVersion:
    """Register the training of a method whose mean mIoU over evaluation seeds is the highest.

    A training that is registered already stays the version that it is.

    Args:
        shot, fold: consider only trainings of these; None: all.

    Returns:
        The version of the registered model `<experiment>-<method>-<shot>shot`.

    Raises:
        JobError: there is no report, or no evaluated training, or no picture to make an example of.
    """
    rows = evaluated(results, experiment, method, shot, fold)
    row, miou = best(rows)
    training = results / "store/train" / row["train_key"]
    weights = training / (FROM_BEST if row["checkpoint"] == BEST else "weights.safetensors")
    example = example_of(results / "store/evaluate" / row["key"] / "pictures.npz", int(row["shot"]))
    track(results)
    client = open_database(results)
    mlflow.set_tracking_uri(client.tracking_uri)  # the registry reads models from there
    name, tags = (
        f"{experiment}-{method}-{row['shot']}shot",
        {KEY: row["train_key"], "sha256": sha256(weights)},
    )
    version = registered(client, name, tags)
    if version is None:
        about = (
            f"{method}, {row['shot']}-shot, fold {row['fold']}, training seed {row['seed']}: {miou:.1f} mIoU on the "
            f"test classes of its fold ({row['dataset']}). Chosen among {len(rows)} evaluations by that score, which "
            "is therefore too high for new classes; folds test different classes."
        )
        version = add_version(client, results, name, weights, example, tags, about)
    client.set_registered_model_alias(name, BEST, version.version)
    return version


def evaluated(
    results: Path, experiment: str, method: str, shot: int | None, fold: int | None
) -> list[dict[str, str]]:
    """Rows of the report's metrics.csv for the method's trainings.

    Raises:
        JobError: there is no report, or none of the method's trainings has a score there.
    """
    path = results / experiment / "report" / "metrics.csv"
    if not path.is_file():
        raise JobError(f"{path}: no report yet; `snakemake` makes it")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train_key"] and row["miou"]]
    asked = {"shot": shot, "fold": fold}
    found = [
        row
        for row in rows
        if row["method"] == method and all(v is None or row[k] == str(v) for k, v in asked.items())
    ]
    if not found:
        known = ", ".join(dict.fromkeys(f"{r['method']} ({r['shot']}-shot, fold {r['fold']})" for r in rows))
        raise JobError(
            f"{path}: no evaluated training of {method} like that; there are {known or 'none at all'}"
        )
    return found


def best(rows: list[dict[str, str]]) -> tuple[dict[str, str], float]:
    """A row of the best training, and its mean mIoU over evaluation seeds."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["train_key"], []).append(float(row["miou"]))
    means = {key: sum(values) / len(values) for key, values in scores.items()}
    key = max(means, key=lambda key: means[key])
    return next(row for row in rows if row["train_key"] == key), means[key]


def example_of(pictures: Path, shot: int) -> list[dict[str, Any]]:
    """An input of the model: the first pictured episode of an evaluation, its first support once for each shot.

    Raises:
        JobError: the evaluation kept no pictures.
    """
    with np.load(pictures) as arrays:
        if "query_0" not in arrays:
            raise JobError(
                f"{pictures}: no episode to make the model's example of; set evaluate.pictures above 0"
            )
        query, support = (cv2.cvtColor(arrays[name], cv2.COLOR_RGB2BGR) for name in ("query_0", "support_0"))
        mask = arrays["support_mask_0"]
    texts = {name: served.as_text(image) for name, image in (("q", query), ("s", support), ("m", mask))}
    return [{"query": texts["q"], "supports": [texts["s"]] * shot, "masks": [texts["m"]] * shot}]


def registered(client: MlflowClient, name: str, tags: dict[str, str]) -> ModelVersion | None:
    """The version of a registered model that has these tags."""
    versions = client.search_model_versions(f"name = '{name}'")
    return next((version for version in versions if tags.items() <= version.tags.items()), None)


def add_version(
    client: MlflowClient,
    results: Path,
    name: str,
    weights: Path,
    example: list[dict[str, Any]],
    tags: dict[str, str],
    about: str,
) -> ModelVersion:
    """Write the complete model to MLflow, below the run of its training, and make it a version of `name`."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.`{KEY}` = '{tags[KEY]}'")
    model = client.create_logged_model(run.info.experiment_id, name, run.info.run_id, tags)
    with tempfile.TemporaryDirectory() as folder:
        network, saved = Path(folder) / "network.safetensors", Path(folder) / "model"
        load(weights, "cpu").save(network)
        with naming_the_disk(saved.parent):
            pyfunc.save_model(
                saved,
                python_model=served.__file__,
                artifacts={"network": str(network)},
                code_paths=[str(Path(i2r.__file__).parent)],
                pip_requirements=requirements(),
                input_example=example,
                mlflow_model=Model(run_id=run.info.run_id, model_id=model.model_id),
            )
        client.log_model_artifacts(model.model_id, str(saved))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    try:
        client.create_registered_model(
            name, description=f"Registered by `i2r register` from {results.name}/."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name, f"models:/{model.model_id}", run.info.run_id, tags, description=about, model_id=model.model_id
    )


def requirements() -> list[str]:
    """The package's own requirements and MLflow, with the versions installed here."""
    names = [text for text in metadata.requires("i2r") or [] if "extra ==" not in text]
    plain = [text.split(";")[0].split(">")[0].split("=")[0].strip() for text in names]
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in [*plain, "mlflow"]]
