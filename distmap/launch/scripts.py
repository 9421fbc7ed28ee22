"""Job scripts for batch systems, in which workers dial in to a pool: Slurm and PBS.

Owns the text of these scripts. No secret is in them: they name the file of the token. It must not know pools.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from distmap.core.limits import LIMITS
from distmap.transport.token import token_source

#: A time as batch systems take it: minutes, hours and minutes and seconds, days before.
TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}")


def slurm(
    line: str,
    *,
    nodes: int = 1,
    cpus: int | None = None,
    gpus: int = 0,
    time: str = "1:00:00",
    token_file: str | Path | None = None,
    setup: str | Sequence[str] = (),
    more: str | Sequence[str] = (),
) -> str:
    """A script for `sbatch` with one worker on each node of the job.

    Args:
        line: The command of a worker that dials in, without the options that the script adds.
        nodes: How many nodes, each with one worker.
        cpus: Cores of each node, and slots of its worker; None: what Slurm gives by itself.
        gpus: GPUs of each node; the worker then has one slot for each of them.
        time: How long the job may run, as Slurm takes it.
        token_file: Where the token lies on the nodes; None: where it is for this pool.
        setup: Lines that make `distmap-worker` available there, such as `source venv/bin/activate`.
        more: Further options of the job, such as "--partition=gpu".

    Raises:
        ValueError: An option is not what it must be.
    """
    _checked(nodes=nodes, cpus=cpus, gpus=gpus, time=time)
    options = [
        "--job-name=distmap",
        f"--nodes={nodes}",
        "--ntasks-per-node=1",
        *([] if cpus is None else [f"--cpus-per-task={cpus}"]),
        *([f"--gres=gpu:{gpus}"] if gpus else []),
        f"--time={time}",
        # A minute before the end: workers finish what runs and hand back the rest.
        "--signal=USR2@60",
        "--output=distmap-%j.log",
        *_lines(more),
    ]
    slots = "gpu" if gpus else '"${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}"'
    name = '"$SLURMD_NODENAME-$SLURM_JOB_ID"'
    worker = shlex.quote(f"""(trap "" USR2; exec {line} --slots {slots} --name {name} {_ENDING}) &
        trap "kill -TERM $!" USR2; trap : TERM; while kill -0 $! 2>/dev/null; do wait $!; done""")
    return "\n".join(
        [
            "#!/bin/bash",
            "# Workers for a distmap pool, one on each node. Submit it: sbatch FILE",
            *[f"#SBATCH {option}" for option in options],
            "",
            "set -e",
            *_preparation(line, token_file, setup),
            "# Slurm tells all processes of a step that its time is up; only the worker is to know: its items go on.",
            "# srun does not take the cores of a task from the job.",
            'exec srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \\',
            f"    bash -c {worker}",
            "",
        ]
    )


def slurm_worker(
    line: str,
    *,
    cpus: int | None,
    gpus: int,
    time: str,
    token_file: str | Path,
    setup: Sequence[str],
) -> str:
    """A script for `sbatch` with one worker; arguments as for `slurm`.

    The worker takes the place of the script, without `srun`: so what tells the job that its time is up tells the worker
    alone, whose task processes may finish. To a step, Slurm would tell all of them.
    """
    _checked(nodes=1, cpus=cpus, gpus=gpus, time=time)
    options = [
        "--nodes=1",
        "--ntasks=1",
        *([] if cpus is None else [f"--cpus-per-task={cpus}"]),
        *([f"--gres=gpu:{gpus}"] if gpus else []),
        f"--time={time}",
        "--signal=B:TERM@60",
    ]
    slots = "gpu" if gpus else '"${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}"'
    return "\n".join(
        [
            "#!/bin/bash",
            *[f"#SBATCH {option}" for option in options],
            "",
            "set -e",
            *_preparation(line, token_file, setup),
            f'exec {line} --slots {slots} --name "$SLURMD_NODENAME-$SLURM_JOB_ID" {_ENDING}',
            "",
        ]
    )


def pbs(
    line: str,
    *,
    nodes: int = 1,
    cpus: int | None = None,
    gpus: int = 0,
    time: str = "1:00:00",
    token_file: str | Path | None = None,
    setup: str | Sequence[str] = (),
    more: str | Sequence[str] = (),
) -> str:
    """A script for `qsub` of PBS Professional and OpenPBS with one worker on each node; arguments as for `slurm`.

    Raises:
        ValueError: An option is not what it must be.
    """
    _checked(nodes=nodes, cpus=cpus, gpus=gpus, time=time)
    chunk = f"{nodes}:ncpus={cpus or 1}" + (f":ngpus={gpus}" if gpus else "")
    options = [
        "-N distmap",
        f"-l select={chunk}",
        "-l place=scatter",
        f"-l walltime={time}",
        "-j oe",
        *_lines(more),
    ]
    slots = "gpu" if gpus else str(cpus or 1)
    worker = shlex.quote(f'exec {line} --slots {slots} --name "$(hostname -s)-$1" {_ENDING}')
    return "\n".join(
        [
            "#!/bin/bash",
            "# Workers for a distmap pool, one on each node. Submit it: qsub FILE",
            *[f"#PBS {option}" for option in options],
            "",
            "set -e",
            'cd "${PBS_O_WORKDIR:-.}"',
            *_preparation(line, token_file, setup),
            "# pbsdsh passes no variables on. Each line is one that the worker needs there.",
            "exec pbsdsh -- env \\",
            '    PATH="$PATH" HOME="$HOME" LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}" \\',
            '    DISTMAP_TOKEN_FILE="$DISTMAP_TOKEN_FILE" DISTMAP_HEADER_FILE="${DISTMAP_HEADER_FILE:-}" \\',
            f'    bash -c {worker} distmap "${{PBS_JOBID%%.*}}"',
            "",
        ]
    )


#: So that a job ends some minutes after its pool; what a worker of a batch job may take to leave.
_ENDING = f"--exit-if-orphaned {LIMITS.batch_orphan:g} --drain {LIMITS.batch_drain:g}"


def _preparation(line: str, token_file: str | Path | None, setup: str | Sequence[str]) -> list[str]:
    """The lines before the workers are started."""
    path = token_file if token_file is not None else token_source()
    words = '"$HOME/.config/distmap/token"' if path is None else shlex.quote(str(path))
    url = shlex.split(line)[-1]
    lines = [
        *(_lines(setup) or ["# Here what makes distmap-worker available, such as: source venv/bin/activate"]),
        "# The token of the pool: a file that the nodes can read, and nobody but you (chmod 600).",
        f"export DISTMAP_TOKEN_FILE={words}",
    ]
    if re.match(r"(?:wss|https)://[^/]+/.", url):
        lines += [
            "# For the proxy on the way: a line `Authorization: token ...` in a file that only you can read.",
            'export DISTMAP_HEADER_FILE="${DISTMAP_HEADER_FILE:-$HOME/.config/distmap/headers}"',
        ]
    return [*lines, ""]


def _lines(given: str | Sequence[str]) -> list[str]:
    return given.splitlines() if isinstance(given, str) else [line for text in given for line in text.splitlines()]


def _checked(*, nodes: int, cpus: int | None, gpus: int, time: str) -> None:
    for name, value, least in (("nodes", nodes, 1), ("cpus", 1 if cpus is None else cpus, 1), ("gpus", gpus, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} of a job script must be a whole number of at least {least}; got {value!r}")
    if not isinstance(time, str) or not TIME.fullmatch(time):
        raise ValueError(f'time of a job script must be text such as "1:00:00" or "2-00:00:00"; got {time!r}')
