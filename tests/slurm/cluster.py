"""A SLURM cluster of two virtual nodes on loopback, from the system's own binaries."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort=16827
StateSaveLocation={t}/state
SlurmdSpoolDir={t}/spool/%n
SlurmctldPidFile={t}/ctld.pid
SlurmdPidFile={t}/spool/%n.pid
SlurmctldLogFile={t}/ctld.log
SlurmdLogFile={t}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={t}/jobcomp.txt
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=15
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=16831 CPUs=2 RealMemory=2000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=16832 CPUs=2 RealMemory=2000 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")


def missing() -> str:
    """Why no cluster can be started here; "" if it can."""
    tools = [t for t in TOOLS if shutil.which(t) is None and not Path(f"/usr/sbin/{t}").is_file()]
    if tools:
        return f"SLURM is not installed (missing {', '.join(tools)})"
    return "" if os.geteuid() == 0 else "the test cluster runs as root only"


class Cluster:
    """Started daemons and their folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def start(self) -> None:
        for name in ("state", "spool/n1", "spool/n2", "dev"):
            (self.folder / name).mkdir(parents=True)
        host = socket.gethostname().split(".")[0]
        (self.folder / "slurm.conf").write_text(CONFIG.format(host=host, t=self.folder))
        for number in range(4):
            subprocess.run(["mknod", "-m", "666", str(self.folder / f"dev/gpu{number}"), "c", "1", "3"], check=True)
        lines = [f"NodeName=n{n + 1} Name=gpu File={self.folder}/dev/gpu[{2 * n}-{2 * n + 1}]" for n in range(2)]
        (self.folder / "gres.conf").write_text("\n".join(lines) + "\n")
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
            log = (self.folder / f"{'-'.join(command)}.out").open("wb")
            self.daemons.append(subprocess.Popen(command, env={**os.environ, **self.env}, stdout=log, stderr=log))
        for _ in range(60):
            if self.run("sinfo", "-h", "-o", "%T").stdout.split() in (["idle"], ["idle", "idle"]):
                return
            time.sleep(0.5)
        raise RuntimeError((self.folder / "ctld.log").read_text()[-2000:])

    def stop(self) -> None:
        self.run("scancel", "--state=PENDING")
        self.run("scancel", "--state=RUNNING")
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, env={**os.environ, **self.env}, text=True, capture_output=True, timeout=60, check=False
        )

    def state(self, job: str) -> str:
        """The job's state word, from the controller."""
        for word in self.run("scontrol", "show", "job", job, "-o").stdout.split():
            if word.startswith("JobState="):
                return word.partition("=")[2]
        return "GONE"

    def wait(
        self, job: str, states: tuple[str, ...] = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), timeout: float = 150
    ) -> str:
        """Wait for one of the states; a requeued job is released at once instead of after two minutes."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            state = self.state(job)
            if state in states:
                return state
            if state == "PENDING":
                self.run("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(0.5)
        raise AssertionError(
            f"job {job} is {self.state(job)} after {timeout} s\n{self.run('scontrol', 'show', 'job', job).stdout}"
        )
