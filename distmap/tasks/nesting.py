"""Pools inside pools: how deep this process is, its share of the cores, and whether a task is importing a module.

Owns what a process that runs tasks must know before it may start a pool of its own. Must not know pools, slots or
tasks. Imported by task processes, so it stays light.
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType

#: Set in the environment of task processes, so that processes which a task starts count too.
_DEPTH, _SHARE = "DISTMAP_DEPTH", "DISTMAP_SHARE"
#: Names the folder in which the task processes of a worker may write the files of local modules. The worker removes it.
FOLDER = "DISTMAP_FILES"
#: The functions that run tasks: an import with one of them below it on the stack is made by a task.
runners: set[CodeType] = set()


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0


#: Read once: a task may change its environment.
depth = _number(_DEPTH)
_share = _number(_SHARE)


def cores() -> int:
    """Cores that this process may use; of a task process its share of them."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS and Windows have none
    found = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min(found, _share) if _share else found


def nesting_environment(slots: int) -> dict[str, str]:
    """The environment variables that give depth and share to the task processes of a pool with this number of slots."""
    return {_DEPTH: str(depth + 1), _SHARE: str(max(1, cores() // slots))}


def importing() -> str | None:
    """The module whose top level runs just now because a task, or what it needs, imports it; None if there is none."""
    found: str | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in runners:
            return found
        if found is None and frame.f_code.co_name == "<module>":
            name = frame.f_globals.get("__name__")
            spec = getattr(sys.modules.get(name) if isinstance(name, str) else None, "__spec__", None)
            if getattr(spec, "_initializing", False):  # else it is code that somebody gave to `exec`
                found = name
        frame = frame.f_back
    return None
