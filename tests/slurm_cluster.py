"""A small Slurm on this machine, for tests: munged, slurmctld and several slurmd, from Debian's packages."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
NODES = ("node1", "node2", "node3")

# Time limits are checked every 30 s, memory every second. A lost node is noticed after SlurmdTimeout, and its jobs may
# begin again after cred_expire.
CONFIGURATION = """
ClusterName=i2r
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldDebug=debug2
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
TaskProlog={folder}/prolog
SlurmdParameters=config_overrides
SlurmdTimeout=4
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,NoShared
KillWait=5
MinJobAge=7200
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
MpiDefault=none
GresTypes=gpu
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here; None if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} missing: apt-get install slurmctld slurmd slurm-client munge"
    if os.getuid() != 0:
        return "Slurm's daemons are started by root"
    return None


@dataclass
class Cluster:
    """A running Slurm.

    Attributes:
        nodes_path: folder of Python modules that only jobs on nodes see, before all others.
    """

    folder: Path
    nodes_path: Path
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def around(self, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """An environment with which Slurm's commands talk to this cluster, also inside a job.

        There Snakemake calls srun without the variable SLURM_CONF, for clusters have a file in /etc/slurm.
        """
        path = f"{self.folder / 'bin'}{os.pathsep}{environment['PATH']}"
        return {**environment, "SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": path}

    def ask(self, *command: str) -> str:
        """Output of one of Slurm's commands."""
        done = subprocess.run(command, env=self.around(), capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """Number -> what Slurm knows, for all jobs in the order of their submission."""
        lines = self.ask("scontrol", "--oneliner", "show", "job").splitlines()
        rows = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        found = {row["JobId"]: row for row in rows if "JobId" in row}
        return dict(sorted(found.items(), key=lambda item: int(item[0])))

    def job(self, number: str) -> dict[str, str]:
        return self.jobs()[number]

    def start(self, node: str) -> None:
        self._start("slurmd", "-D", "-N", node)

    def power_off(self, node: str) -> None:
        """Kill slurmd and all jobs of a node at once."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                daemon = words[:1] == ["slurmd"] and node in words
                step = words[:1] == ["slurmstepd:"] or process.name() == "slurmstepd"
                # the environment of a slurmstepd is that of its slurmd, so its children are asked
                names = [process, *process.children()] if step else [process]
                if daemon or any(_node_of(one) == node for one in names):
                    process.kill()

    def logs(self) -> str:
        return "\n".join(
            f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in self.folder.glob("*.log")
        )

    def _start(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    env=self.around(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _stop(self) -> None:
        for node in NODES:
            self.power_off(node)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()


def _node_of(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        return process.environ().get("SLURMD_NODENAME")
    return None


def wait_for(what: Callable[[], object], seconds: float, why: Callable[[], str] = str) -> None:
    """Wait until `what` is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not in {seconds} s; {why()}"
        time.sleep(0.5)


@contextmanager
def running() -> Iterator[Cluster]:
    """A Slurm with three nodes of two cores, 20 GB (so it thinks) and two GPUs each, until the end of the context."""
    folder = Path(tempfile.mkdtemp(prefix="i2r-slurm-"))
    cluster = Cluster(folder, folder / "nodes-path")
    try:
        _configure(cluster)
        munge = folder / "munge"
        cluster._start(
            *("runuser", "-u", "munge", "--", "munged", "--foreground", f"--key-file={munge}/key"),
            *(f"--socket={munge}/socket", f"--pid-file={munge}/pid", f"--seed-file={munge}/seed"),
            *(f"--log-file={munge}/log", "--num-threads=2"),
        )
        wait_for((munge / "socket").exists, 20, cluster.logs)
        cluster._start("slurmctld", "-D")
        for node in NODES:
            cluster.start(node)
        wait_for(lambda: _idle(cluster) == len(NODES), 60, cluster.logs)
        yield cluster
    finally:
        cluster._stop()
        shutil.rmtree(folder, ignore_errors=True)


def _idle(cluster: Cluster) -> int:
    done = subprocess.run(
        ["sinfo", "-h", "-N", "-o", "%T"],
        env=cluster.around(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout.split().count("idle")


def _configure(cluster: Cluster) -> None:
    folder, ports = cluster.folder, _free_ports(1 + len(NODES))
    folder.chmod(0o755)  # for munged, which is not root
    for name in ("munge", "state", "bin", "nodes-path", *(f"spool/{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for path in (key, folder / "munge"):
        shutil.chown(path, "munge", "munge")
    for number in range(2):
        (folder / f"gpu{number}").symlink_to(
            "/dev/null"
        )  # Slurm wants a device whose name ends with a number
    lines = [
        f"NodeName={node} NodeHostname={platform.node()} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=20000 "
        "Gres=gpu:2 State=UNKNOWN"
        for node, port in zip(NODES, ports[1:], strict=True)
    ]
    text = CONFIGURATION.format(host=platform.node(), folder=folder, ports=ports, nodes="\n".join(lines))
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/gpu[0-1]\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    _script(folder / "prolog", f"echo export PYTHONPATH={cluster.nodes_path}:$PYTHONPATH")
    _script(folder / "bin" / "srun", f'SLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"')


def _script(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    path.chmod(0o755)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
