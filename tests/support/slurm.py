"""A Slurm of one node on this machine, as its packages of Debian have it: munged, slurmctld and slurmd on loopback.

Owns their settings. Knows nothing of distmap.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.services import free_port, program, running
from support.waiting import until

_SETTINGS = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=one NodeHostname=localhost NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=work Nodes=ALL Default=YES State=UP
"""


class Slurm:
    """Its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, name: str, *arguments: str | Path, **environ: str) -> str:
        """What a command prints, in the folder of this Slurm."""
        done = subprocess.run(
            [program(name), *arguments], cwd=self.folder, env={**self._environ, **environ}, capture_output=True,
            text=True, timeout=20, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """The state of a job, such as RUNNING."""
        fields = dict(field.split("=", 1) for field in self.ask("scontrol", "show", "job", job).split() if "=" in field)
        return fields["JobState"]


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """A Slurm that takes jobs; its programs, and what they started, end with it."""
    daemons = [program(name) for name in ("munged", "slurmctld", "slurmd")]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    control, node = free_port(), free_port()
    settings = _SETTINGS.format(folder=folder, control=control, node=node, user=getpass.getuser())
    (folder / "slurm.conf").write_text(settings)
    # Two devices that every machine has stand for GPUs: Slurm only gives their numbers to jobs.
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(64))
    # --force: the folder is for this user alone, and munge would let all users in.
    munge = ["--foreground", "--force", f"--key-file={key}"]
    munge += [
        f"--{name}={folder}/munge.{name.removesuffix('-file')}"
        for name in ("socket", "pid-file", "log-file", "seed-file")
    ]
    environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with contextlib.ExitStack() as stack:
        stack.enter_context(running([daemons[0], *munge], folder / "munged.log"))
        until((folder / "munge.socket").exists)
        stack.enter_context(running([daemons[1], "-D"], folder / "slurmctld.log", port=control, env=environ))
        stack.enter_context(running([daemons[2], "-D", "-N", "one"], folder / "slurmd.log", port=node, env=environ))
        cluster = Slurm(folder)
        until(lambda: "idle" in cluster.ask("sinfo", "--noheader"), 15, "a node of Slurm that is idle")
        try:
            yield cluster
        finally:
            cluster.ask("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
            until(lambda: not cluster.ask("squeue", "--noheader"), 15, "the end of the jobs of Slurm")
