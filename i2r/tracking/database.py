"""MLflow's database: where it is, whether it can be used, and a new one in place of one that cannot.

The local database holds only copies of what results/ has. One that cannot be used is renamed, and the runs are
imported again from their files into a new one.
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A server that stops answering must not hold up a run for the minutes that are MLflow's defaults.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

from mlflow import MlflowClient
from mlflow.store.db.utils import _get_latest_schema_revision

from i2r.pipeline.spec import JobError

ANSWER = 5  # seconds within which a server must answer
MAKING = ".mlflow-new"


def given_uri() -> str | None:
    """MLFLOW_TRACKING_URI; None if it is not set or empty."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or None


def database(results: Path) -> str:
    """The tracking URI of the database."""
    return given_uri() or _sqlite(results / "mlflow.db")


def _sqlite(path: Path) -> str:
    # relative, because the path of a clone may have characters with a meaning in URIs
    return f"sqlite:///{os.path.relpath(path)}"


def public_uri(results: Path) -> str:
    """The tracking URI without user, password and the path of this clone."""
    if (given := given_uri()) is None:
        return f"sqlite:///{results.name}/mlflow.db"
    parts = urlsplit(given)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def open_database(results: Path) -> MlflowClient:
    """A client of the database, which is made if it is missing and replaced if it cannot be used.

    Raises:
        JobError: a server does not answer, or MLFLOW_TRACKING_URI is a place that MLflow cannot use.
    """
    uri = given_uri()
    if uri is None:
        _prepare(results)
        return MlflowClient(tracking_uri=database(results))
    check_answer(uri)
    try:
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # of MLflow, of the database's driver, of the network
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise JobError(
            f"MLFLOW_TRACKING_URI {public_uri(results)}: MLflow cannot use it ({first}); without this variable the "
            "database is results/mlflow.db"
        ) from None
    return client


def check_answer(uri: str) -> None:
    """Wait a few seconds for any answer of the server of a URI.

    Raises:
        JobError: there is none.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    shown = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], path="/health", query=""))
    try:
        urllib.request.urlopen(plain, timeout=ANSWER).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        why = "no answer" if isinstance(error, TimeoutError | socket.timeout) else error
        raise JobError(f"MLFLOW_TRACKING_URI {shown}: no answer within {ANSWER} s ({why})") from None


def _prepare(results: Path) -> None:
    """Make the local database if it is missing or cannot be used, by renaming a complete one into place."""
    path = results / "mlflow.db"
    if path.is_file() and (why := _unusable(results)):
        kept = _set_aside(path)
        shutil.rmtree(results / "mlartifacts", ignore_errors=True)
        print(
            f"MLflow: {path.name} {why}: it is now {kept.name}, and all runs are imported again from their files",
            file=sys.stderr,
        )
    if not path.exists():
        for part in results.glob(f"{MAKING}*"):  # left by a killed process
            part.unlink()
        # another name each time, because MLflow remembers the databases that a process has made
        new = results / f"{MAKING}-{time.time_ns()}.db"
        MlflowClient(tracking_uri=_sqlite(new)).search_experiments()
        new.replace(path)


def _unusable(results: Path) -> str | None:
    """Why the local database cannot be used: damaged, of another version, or of a clone that has moved."""
    path = results / "mlflow.db"
    try:
        with closing(sqlite3.connect(path)) as connection:
            whole = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            query = "SELECT artifact_location FROM experiments WHERE name != 'Default'"
            places = [row[0] for row in connection.execute(query)] if whole else []
            version = (
                connection.execute("SELECT version_num FROM alembic_version").fetchone() if whole else None
            )
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):  # locked, or no permission: not a fault of the database
            raise JobError(f"{path}: {error}") from None
        return "is not complete"
    except sqlite3.DatabaseError:
        return "is damaged or no database"
    if not whole:
        return "is damaged"
    home = (results.resolve() / "mlartifacts").as_uri()
    if any(not str(place).startswith(home) for place in places):
        return "belongs to results/ that was moved or copied"
    # Not by opening it with MLflow, which would keep the file open after it was renamed.
    return None if version == (_get_latest_schema_revision(),) else "was made by another version of MLflow"


def _set_aside(path: Path) -> Path:
    """Rename a database to a name that is free; returns it."""
    number = 1
    while (kept := path.with_name(f"mlflow-old{number}.db")).exists():
        number += 1
    path.replace(kept)
    for suffix in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return kept
