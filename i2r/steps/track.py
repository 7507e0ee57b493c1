"""The track step: import all finished runs into MLflow, if it is installed. Errors of MLflow do not fail the job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from i2r.files import write_json
from i2r.pipeline.jobs import Job

AGAIN = "the results are complete without it, and `i2r track` can import them later"


def run(job: Job) -> dict[str, Any]:
    """Write tracked.json: imported (number of runs, None if the import failed), uri, and why (None if it did not)."""
    results = next(folder.parent for folder in job.out.resolve().parents if folder.name == "state")
    found = import_runs(results)
    write_json(job.out / "tracked.json", found)
    return {} if found["imported"] is None else {"imported": found["imported"]}


def import_runs(results: Path) -> dict[str, Any]:
    """Import all finished runs below `results`; returns the content of tracked.json and prints `why` to stderr."""
    found = _import(results)
    if found["why"]:
        print(f"i2r: {found['why']}", file=sys.stderr)
    return found


def _import(results: Path) -> dict[str, Any]:
    try:
        from i2r.tracking.database import public_uri
        from i2r.tracking.track import track
    except ImportError as error:
        why = f"mlflow cannot be imported ({one_line(error)}): {AGAIN}"
        return {"imported": None, "uri": None, "why": why}
    uri = public_uri(results)
    try:
        return {"imported": track(results), "uri": uri, "why": None}
    except Exception as error:  # the results do not depend on MLflow, its database or its server
        return {"imported": None, "uri": uri, "why": f"MLflow failed at {uri} ({one_line(error)}): {AGAIN}"}


def one_line(error: Exception) -> str:
    """The first line of an error, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
