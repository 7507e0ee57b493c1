"""`i2r ui`: MLflow's server on this machine, with runs imported while it runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from i2r.pipeline.spec import JobError
from i2r.report.finished import ResultsError
from i2r.tracking.database import database
from i2r.tracking.track import track

# A process in the server's group, which ends the group when its standard input ends, also when `i2r ui` is killed.
END_WITH_PARENT = "import os, signal, sys; sys.stdin.read(); os.killpg(0, signal.SIGTERM)"


def ui(results: Path, port: int = 5000, every: float = 5.0) -> None:
    """Import runs, serve MLflow's UI on 127.0.0.1 and follow running jobs until Ctrl-C.

    Raises:
        JobError: the port is taken, or the server ended.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise JobError(f"port {port} is in use; choose another with --port") from None
    results.mkdir(parents=True, exist_ok=True)
    track(results, running=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database(results)]
    command += ["--default-artifact-root", (results.resolve() / "mlartifacts").as_uri()]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stop = threading.Event()
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # not by an exception, which an import might swallow
        signal.signal(number, lambda *_: stop.set())
    # MLflow's job executors would be eight idle processes
    server = subprocess.Popen(
        command, process_group=0, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    )
    watch = subprocess.Popen(
        [sys.executable, "-c", END_WITH_PARENT], stdin=subprocess.PIPE, process_group=server.pid
    )
    print(f"MLflow: http://127.0.0.1:{port} (starts within seconds; stop it with Ctrl-C)", file=sys.stderr)
    try:
        while server.poll() is None and not stop.wait(every):
            try:
                track(results, running=True)
            except (ResultsError, OSError) as error:
                print(f"MLflow: {error}; trying again in {every:g} s", file=sys.stderr)
        if not stop.is_set():
            raise JobError(f"MLflow's server ended with status {server.returncode}")
    finally:
        watch.stdin.close()
        watch.wait()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
