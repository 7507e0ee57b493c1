"""The fetch step: official archives into the data folder, and the data set that is prepared from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from i2r.data.official import obtain
from i2r.files import write_json
from i2r.pipeline.fetched import FETCHED, wanted
from i2r.pipeline.jobs import Job


def run(job: Job) -> dict[str, Any]:
    """Write fetched.json: what data.lock says of each archive.

    Raises:
        DataError: something cannot be had or is wrong.
        JobError: the table of archives has changed since the job was planned.
    """
    asked = wanted(job.params, job.runtime)
    found = obtain(asked, max(job.threads, job.runtime.workers))
    write_json(job.out / FETCHED, found)
    return {"archives": len(found), "folder": str(Path(job.runtime.data_root) / asked.folder)}
