"""distmap: `pool.map` for notebooks, on this machine and on any machine that an HTTPS URL or an SSH login reaches.

Public names, and a name for joblib, nothing else. They load on first use, so `import distmap` costs next to nothing.
"""

from __future__ import annotations

from distmap._version import __version__
from distmap.tasks._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distmap.calls.job import Job
    from distmap.calls.plan import plan
    from distmap.checkpoint.info import Checkpoint, CheckpointInfo, FunctionInfo, checkpoint_info
    from distmap.core.progress import Lane, Snapshot
    from distmap.errors import (
        AuthenticationError,
        CheckpointChanged,
        CheckpointError,
        CheckpointInUse,
        ConnectError,
        CrashLoopError,
        DistmapError,
        InstallError,
        ItemTimeout,
        JobCancelled,
        LaunchError,
        NoWorkers,
        PayloadError,
        PoisonItemError,
        PoolClosed,
        ProtocolError,
        RemoteError,
        TokenError,
        VersionMismatch,
        WorkerBusy,
        WorkerMemoryError,
    )
    from distmap.pool import Pool
    from distmap.tasks.broadcast import Broadcast
    from distmap.tasks.per_process import per_process
    from distmap.tasks.run import rng

_HOMES = {
    "Pool": "distmap.pool",
    "Job": "distmap.calls.job",
    "plan": "distmap.calls.plan",
    "Broadcast": "distmap.tasks.broadcast",
    "per_process": "distmap.tasks.per_process",
    "rng": "distmap.tasks.run",
    "Checkpoint": "distmap.checkpoint.info",
    "CheckpointInfo": "distmap.checkpoint.info",
    "FunctionInfo": "distmap.checkpoint.info",
    "checkpoint_info": "distmap.checkpoint.info",
    "Snapshot": "distmap.core.progress",
    "Lane": "distmap.core.progress",
}

__all__ = [
    "AuthenticationError",
    "Broadcast",
    "Checkpoint",
    "CheckpointChanged",
    "CheckpointError",
    "CheckpointInUse",
    "CheckpointInfo",
    "ConnectError",
    "CrashLoopError",
    "DistmapError",
    "FunctionInfo",
    "InstallError",
    "ItemTimeout",
    "Job",
    "JobCancelled",
    "Lane",
    "LaunchError",
    "NoWorkers",
    "PayloadError",
    "PoisonItemError",
    "Pool",
    "PoolClosed",
    "ProtocolError",
    "RemoteError",
    "Snapshot",
    "TokenError",
    "VersionMismatch",
    "WorkerBusy",
    "WorkerMemoryError",
    "__version__",
    "checkpoint_info",
    "per_process",
    "plan",
    "rng",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'distmap' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES.get(name, "distmap.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]


def _know_to_joblib() -> None:
    """Have joblib, if it is there already, find the backend by its name: joblib has no entry points for that."""
    import sys

    if (parallel := sys.modules.get("joblib.parallel")) is not None:
        parallel.EXTERNAL_BACKENDS.setdefault("distmap", lambda: __import__("distmap.ext.joblib"))


_know_to_joblib()
