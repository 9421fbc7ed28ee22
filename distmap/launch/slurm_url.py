"""The options of `slurm://?workers=20&cpus=8&time=2:00:00&partition=gpu`.

Owns which there are and what they may be. It must not know how a job is submitted. Every option that is not one of ours
is one of `sbatch`, under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from distmap.core.launch_limits import LAUNCH
from distmap.errors import ConnectError
from distmap.launch.scripts import TIME
from distmap.tasks._typing import NamedTuple

#: Options of `sbatch` that are not to be chosen, and why.
_OURS = {
    "array": "workers= says how many there are",
    "chdir": "the logs and the token would be looked for elsewhere; make the pool in that folder",
    "clusters": "jobs of other clusters could not be looked after",
    "cpus-per-task": "cpus= says it",
    "error": "the log of a worker is kept until its pool ends, and shown if it fails",
    "gres": "gpus= says it",
    "input": "workers read none",
    "job-name": "jobs are found by their name",
    "nodes": "each worker is a job of its own, on one node",
    "ntasks": "each worker is a job of its own",
    "ntasks-per-node": "each worker is a job of its own",
    "output": "the log of a worker is kept until its pool ends, and shown if it fails",
    "parsable": "distmap reads the answer",
    "signal": "workers are told a minute before their time is up",
    "wait": "a pool does not wait for the end of its workers",
    "wrap": "the script is distmap's",
}


class SlurmOptions(NamedTuple):
    """What is asked of Slurm."""

    #: Workers in the beginning: at least and at most.
    least: int = 1
    most: int = 1
    cpus: int | None = None
    gpus: int = 0
    time: str = "1:00:00"
    #: The interpreter of the workers; empty: that of this process, or with `setup` the `distmap-worker` found there.
    python: str = ""
    #: Lines before the worker.
    setup: tuple[str, ...] = ()
    #: Options of `distmap-worker`.
    worker: tuple[str, ...] = ()
    #: Options of `sbatch`, each a word.
    more: tuple[str, ...] = ()


def parse_slurm(text: str) -> SlurmOptions:
    """The options of the URL.

    Raises:
        ConnectError: It is no such URL; one sentence that names the option.
    """
    match = re.fullmatch(r"slurm:/*\??(?P<options>.*)", text.strip(), re.IGNORECASE | re.DOTALL)
    assert match is not None, text
    if "?" not in text and match["options"]:
        raise ConnectError(f"{text!r} is no address of Slurm: it looks like slurm://?workers=20&partition=NAME")
    given: dict[str, list[str]] = {}
    for part in filter(None, match["options"].split("&")):
        name, _, value = part.partition("=")
        value = unquote(value)
        if "dm1_" in value or name in ("token", "key", "secret", "password"):
            raise ConnectError("the URL of Slurm holds a token, and URLs end up in logs: take it out")
        if any(ord(sign) < 32 for sign in value) and name != "setup":
            raise ConnectError(f"{name} of slurm:// has a line break or a control character in it")
        given.setdefault(name.replace("_", "-"), []).append(value)
    return _options(given)


def _options(given: Mapping[str, list[str]]) -> SlurmOptions:
    options, more = SlurmOptions(), list[str]()
    for name, values in given.items():
        value = values[-1]
        if name == "workers":
            least, _, most = value.partition("-")
            low = _number(name, least, 0)
            options = options._replace(least=low, most=_number(name, most or least, low))
        elif name == "cpus":
            options = options._replace(cpus=_number(name, value))
        elif name == "gpus":
            options = options._replace(gpus=_number(name, value, 0))
        elif name == "time":
            options = options._replace(time=_time(value))
        elif name == "python":
            options = options._replace(python=value)
        elif name == "setup":
            options = options._replace(setup=tuple(line for one in values for line in one.splitlines()))
        elif name == "tag":
            tags = [f"--tag={tag}" for one in values for tag in one.split(",") if tag]
            options = options._replace(worker=(*options.worker, *tags))
        elif name == "memory-limit":
            options = options._replace(worker=(*options.worker, f"--memory-limit={value}"))
        elif name in _OURS:
            raise ConnectError(f"{name}= is not an option of slurm://: {_OURS[name]}")
        elif re.fullmatch(r"[a-z][a-z0-9-]+", name):
            more += [f"--{name}={value}" if value else f"--{name}" for value in values]
        else:
            raise ConnectError(
                f"{name!r} is not an option of slurm://: it takes workers, cpus, gpus, time, python, setup, tag, "
                "memory_limit, and the long options of sbatch, such as partition, account, mem, qos and constraint"
            )
    return options._replace(more=tuple(more))


def _number(name: str, value: str, least: int = 1) -> int:
    if not value.isdecimal() or not least <= int(value) <= LAUNCH.workers:
        raise ConnectError(f"{name} of slurm:// must be a whole number of at least {least}; got {value!r}")
    return int(value)


def _time(value: str) -> str:
    if not TIME.fullmatch(value):
        raise ConnectError(f"time of slurm:// must be as Slurm takes it, such as 2:00:00 or 1-12:00:00; got {value!r}")
    return value
