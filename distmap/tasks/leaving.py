"""The end of a task process: what was registered for it runs, for a limited time.

Owns the order, which is the interpreter's. Imported by task processes, so it stays light.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it is not in typeshed
import atexit
import os
import sys

from distmap.tasks._typing import Any


def flush() -> None:
    """Flush what tasks print to, whatever it is now."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # a task closed or replaced it


def leave(parent: int, seconds: float) -> None:
    """End this process in order: what was registered for its end runs first, for so long at most."""
    if os.name == "posix":
        if os.getppid() != parent:
            os._exit(0)  # nobody waits for it
        # Not by a handler in Python: what holds up the end may hold up that too.
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
        _signal.setitimer(_signal.ITIMER_REAL, seconds)
    # As the interpreter does at its end, in the same order. The end itself is not for us: it takes modules apart.
    for function in (_end_threads, atexit._run_exitfuncs, _end_trackers, flush):
        try:
            function()
        except BaseException:
            sys.excepthook(*sys.exc_info())
    os._exit(0)


def _end_threads() -> None:
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()


def _end_trackers() -> None:
    """Let those who track named resources of this process (multiprocessing's, loky's) remove what it left.

    They would do so by themselves once it has ended, but then they are ended with everything else that it started.
    """
    for name in [name for name in sys.modules if name.endswith(".resource_tracker")]:
        tracker: Any = getattr(sys.modules[name], "_resource_tracker", None)
        if getattr(tracker, "_pid", None) is not None:  # else it is another process's
            tracker._stop()
