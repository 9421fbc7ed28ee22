"""What is known of executors that somebody else wrote, beyond `submit`.

Owns the facts: how many calls one runs at once, whether its `cancel()` can be believed, which of its errors mean that a
process ended, how a broken one is made anew. All by name, so that none of those packages is imported here. Whatever it
asks of an executor may raise: then nothing is known.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

log = logging.getLogger("distmap")

T = TypeVar("T")

#: Where executors say how many calls they run at once. There is no public way to ask.
_COUNTS = ("_max_workers", "max_workers", "num_workers")

#: `submit` of these begins no call whose `cancel()` said True. Elsewhere a future may never be "running", so that its
#: `cancel()` is always True, however long the call runs already.
_RELIABLE_CANCEL = (
    "concurrent.futures.thread",
    "concurrent.futures.process",
    "concurrent.futures.interpreter",
    "loky.",
    "joblib.externals.loky.",
    "mpi4py.futures.",
    "executorlib.task_scheduler.interactive.",
)

#: Errors of a future that mean: what ran the call ended, and the executor goes on. Dask, Parsl.
_DEATHS = frozenset({"KilledWorker", "WorkerLost", "ManagerLost"})
#: ... and the executor ended with it. The standard library, loky; executorlib.
_BROKEN = frozenset({"BrokenExecutor", "ExecutorlibSocketError"})


def call_or_default(call: Callable[[], T], otherwise: T) -> T:
    """What a foreign call gives; `otherwise` if it raises."""
    try:
        return call()
    except Exception as error:
        log.info("x an executor raised %r", error)
        return otherwise


def slots_of(executor: Executor) -> int | None:
    """How many calls it runs at once; None if it does not say."""
    for name in _COUNTS:
        count = call_or_default(lambda name=name: getattr(executor, name, None), None)  # type: ignore[misc]
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            return count
    return None


def would_spawn(executor: Executor) -> str | None:
    """Why it must not be asked anything, in a sentence: an `MPIPoolExecutor` that would start its processes by itself.

    Outside of MPI that ends the whole process, a kernel with it (MPICH), or fails (Open MPI). It starts them at the
    first question, also at that for their number.
    """
    makers = {"WorkerPool", "SpawnPool"}  # not of threads; and those that have a pool are as good as any
    make = getattr(getattr(executor, "_make_pool", None), "__name__", "")
    core = sys.modules.get("mpi4py.futures._core")
    if core is None or make not in makers or getattr(executor, "_pool", None) is not None:
        return None
    shared = make == "WorkerPool" and (
        getattr(core, "SharedPool", None) is not None or "service" in getattr(executor, "_options", ())
    )
    if shared or any(name in os.environ for name in ("PMIX_RANK", "PMI_RANK")):
        return None
    return (
        f"this {type(executor).__name__} would start MPI processes by itself, which can end this process with them. "
        "In a program, start them with it: mpiexec -n 5 python -m mpi4py.futures script.py; in a notebook, let "
        f'mpiexec start workers: Pool(launch="mpiexec -n 4 distmap-worker {{url}}")'
    )


def unknown_slots(executor: Executor) -> str:
    """What to do when `slots_of` knows nothing."""
    return (
        f"{type(executor).__name__} does not say how many calls it runs at once (it has none of "
        f"{', '.join(_COUNTS)}); say it: Pool(executor, processes=8)"
    )


def shares_memory(executor: Executor) -> bool:
    """Whether its calls run in threads of this process, and interpreter."""
    return isinstance(executor, concurrent.futures.ThreadPoolExecutor) and not has_interpreters(executor)


def has_interpreters(executor: Executor) -> bool:
    """Whether its calls run in interpreters of their own in this process, where no thread of ours may be started."""
    kind = getattr(concurrent.futures, "InterpreterPoolExecutor", ())  # 3.14; it is a ThreadPoolExecutor
    return isinstance(executor, kind)


def has_initializer(executor: Executor) -> bool:
    """Whether something of the user's was set up in each of its processes: the standard library, loky; mpi4py."""
    options = call_or_default(lambda: getattr(executor, "_options", None), None)
    given = options.get("initializer") if isinstance(options, dict) else None
    return (given or call_or_default(lambda: getattr(executor, "_initializer", None), None)) is not None


def has_reliable_cancel(executor: Executor) -> bool:
    """Whether a call whose future's `cancel()` says True has not begun and never will."""
    made_by = str(getattr(type(executor).submit, "__module__", ""))
    if made_by.startswith("executorlib."):  # where calls go through files, nothing is ever "running"
        made_by = type(getattr(executor, "_task_scheduler", None)).__module__
    return made_by.startswith(_RELIABLE_CANCEL)


def dies_of_cancel(executor: Executor) -> bool:
    """Whether a call that is cancelled at the wrong moment ends the thread that hands calls out, and so the executor:
    executorlib, while it looks at the arguments of calls for results of others.
    """
    return type(getattr(executor, "_task_scheduler", None)).__name__ == "DependencyTaskScheduler"


def has_process_per_call(executor: Executor) -> bool:
    """Whether each call has a process of its own, whose end breaks nothing else: executorlib, unless told otherwise."""
    scheduler: Any = getattr(executor, "_task_scheduler", None)
    inner = call_or_default(lambda: scheduler._process_kwargs.get("executor", scheduler), None)
    return type(inner).__name__ == "OneProcessTaskScheduler"


def is_death(error: BaseException) -> bool:
    """Whether it means that the process (engine, worker) that ran the call ended, and the executor goes on."""
    return not _names(error).isdisjoint(_DEATHS)


def is_broken(error: BaseException) -> bool:
    """Whether it means that the executor takes nothing any more because a process of its own ended."""
    return not _names(error).isdisjoint(_BROKEN)


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def replacement_of(executor: Executor) -> Callable[[], Executor] | None:
    """What makes a fresh executor in the place of a broken one, with the same settings; None: nothing does.

    loky's reusable executor only: to be made anew is its contract. How others are made, only their owner knows.
    """
    make = getattr(sys.modules.get(type(executor).__module__), "get_reusable_executor", None)
    if make is None or type(executor).__name__ != "_ReusablePoolExecutor":
        return None
    settings = {"max_workers": "_max_workers", "context": "_context", "timeout": "_timeout", "env": "_env"}
    settings |= {"initializer": "_initializer", "initargs": "_initargs"}

    def renew() -> Executor:
        known = {name: getattr(executor, where) for name, where in settings.items() if hasattr(executor, where)}
        made: Executor = make(kill_workers=True, **known)
        return made

    return renew
