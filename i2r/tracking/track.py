"""Import of jobs into MLflow from their files; nothing outside this folder uses MLflow.

The database holds only copies: if it is removed, it is made again from the files. A run has its job's key as a tag, so
importing twice changes nothing. Runs of one configuration have a common parent with means over folds.
"""

from __future__ import annotations

from pathlib import Path

from i2r.pipeline.jobs import locked
from i2r.tracking import parents
from i2r.tracking.importer import Importer


def track(results: Path, running: bool = False) -> int:
    """Import every finished job below `results`, and with `running` what running jobs have logged so far.

    The database is MLFLOW_TRACKING_URI, or else results/mlflow.db with artifacts in results/mlartifacts.

    Returns:
        Number of newly imported runs.
    """
    results = results.resolve()
    with locked(results / "mlflow.lock", "MLflow's database"):
        importer = Importer(results)
        new = importer.run(running)
        parents.write(importer)
    return new
