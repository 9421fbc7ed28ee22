"""Every exception that distmap raises, in one tree.

Owns the names and the texts of failures. Imports nothing of distmap and takes only builtins, so that any ring may
raise them and any process may unpickle them.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` is not for task processes (see tasks/_typing.py)

if TYPE_CHECKING:
    import concurrent.futures
    import multiprocessing
    from typing import Any


class DistmapError(Exception):
    """The root: everything that distmap itself raises, other than the exceptions of your own function."""


class InvalidTransition(DistmapError):
    """The scheduler was told something that cannot follow from its state; nothing was changed.

    It is a bug of distmap (or of an engine), never of your function.
    """


class PoolClosed(DistmapError, ValueError):
    """The pool was closed or terminated and takes no new work.

    Also a `ValueError`, as `multiprocessing.Pool` raises.
    """


class PoisonItemError(DistmapError):
    """An item ended the task process that ran it too many times (segfault, `os._exit`, out of memory).

    The message names the item, a short repr of it and how each process died. All other items complete.
    """


class WorkerMemoryError(PoisonItemError, MemoryError):
    """An item needs more memory than there is: it passed the memory limit of its slot, or memory ran out.

    When memory ran out, the item was run again alone on its worker first, as others may have used the memory. The
    message names the item, the worker, what the item used and the limit. All other items complete.
    """


class InstallError(DistmapError):
    """pip failed on a worker (`pool.install`); the message has what it said last, by worker."""


class CrashLoopError(DistmapError):
    """Task processes died again and again with nothing finished, so the job was stopped."""


class RemoteError(DistmapError):
    """The traceback of a task, as text; the `__cause__` of the exception that `map` raises.

    It is raised itself when the original exception could not be pickled or unpickled.
    """

    #: The traceback as it was there, without what this process knows of it.
    _text: str = ""
    #: The exception that it is the cause of shows the same frames as its own: nothing is left to be told.
    _shown: bool = False

    def __bool__(self) -> bool:
        # IPython leaves out a cause that is false (`TBTools`); in a script distmap's own hook does (`traces.py`).
        return not self._shown


class PayloadError(DistmapError):
    """A value cannot travel: it does not pickle, does not unpickle, or exceeds a limit. The message names it."""


class CheckpointError(DistmapError):
    """A checkpoint file cannot be used: it is damaged, is no checkpoint, or cannot be written. The message says why."""


class CheckpointChanged(CheckpointError):
    """The function or the data is not what the results in the checkpoint were made with.

    The message names what changed; `on_change=` of the call says what to do then.
    """


class CheckpointInUse(CheckpointError):
    """Another process writes to the checkpoint. The message names it: process, machine, since when."""


class TokenError(DistmapError):
    """The token is missing, unreadable, not private, or not of the right form. The message says how to mend it."""


class AuthenticationError(DistmapError, ConnectionError):
    """The other side did not prove that it holds the same token, or something stands in the middle."""


class ProtocolError(DistmapError, ConnectionError):
    """The other side sent something that is not of distmap's protocol, or speaks another version of it."""


class ConnectError(DistmapError, ConnectionError):
    """A worker or pool could not be reached. One sentence that names the URL and the hop that failed."""

    #: Whether its host answered that nothing listens on the port.
    refused = False
    #: Whether a proxy on the way wants a token that was not shown to it, or none that it accepts.
    wants_login = False


class LaunchError(ConnectError):
    """A worker cannot be started before a person corrects something.

    Over SSH: host key, login, Python or distmap there. By Slurm or another command: what that said last. One sentence.
    """


class WorkerBusy(DistmapError, ConnectionError):
    """The worker serves another pool; the message says whose."""


class VersionMismatch(DistmapError, ConnectionError):
    """The two sides run Python versions (or protocol versions) that do not fit. The message names both."""


def _time_ran_out() -> tuple[type[DistmapError], ...]:
    """Make the errors that are those of multiprocessing too, so that code written for it catches them."""
    import multiprocessing

    class NoWorkers(DistmapError, multiprocessing.TimeoutError):
        """No worker came within the time allowed. The message says what was tried and what to try next.

        Its `__cause__` is the error that kept the dialled workers away, if it is of one kind for all of them:
        `AuthenticationError`, `WorkerBusy`, `VersionMismatch` or `ConnectError`.
        """

    class ItemTimeout(DistmapError, multiprocessing.TimeoutError):
        """An item ran longer than `timeout=`; its task process was ended, the other items went on.

        Attributes:
            stack: where the item stood when its time was up, as the lines of a traceback, innermost call last;
                empty if its process could not say. A note of the error has it too.
        """

        stack: str = ""

    return NoWorkers, ItemTimeout


def _cancelled() -> tuple[type[DistmapError], ...]:
    """Make the error that is one of `concurrent.futures` too."""
    import concurrent.futures

    class JobCancelled(DistmapError, concurrent.futures.CancelledError):
        """The job was cancelled. What had been finished is in `job.partial`."""

    return (JobCancelled,)


if TYPE_CHECKING:

    class NoWorkers(DistmapError, multiprocessing.TimeoutError): ...

    class ItemTimeout(DistmapError, multiprocessing.TimeoutError):
        stack: str

    class JobCancelled(DistmapError, concurrent.futures.CancelledError): ...


def __getattr__(name: str) -> Any:
    # Task processes import this module and never raise these three: importing the packages they come from would more
    # than double the start-up of a task process (16 ms of 30). A pool needs only the last one to begin.
    make = {"NoWorkers": _time_ran_out, "ItemTimeout": _time_ran_out, "JobCancelled": _cancelled}.get(name)
    if make is None:
        raise AttributeError(f"module 'distmap.errors' has no attribute {name!r}")
    for kind in make():
        kind.__qualname__ = kind.__name__  # they pickle by name, as members of this module
        # Another thread may have been quicker, and there must be one class of each.
        globals().setdefault(kind.__name__, kind)
    return globals()[name]
