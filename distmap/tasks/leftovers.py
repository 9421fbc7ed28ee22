"""What tasks leave behind in their process: threads, open files, processes.

Owns how these are counted. Decides nothing: `slots/slot.py` decides when a process holds too much. Imported by task
processes, so it stays light.
"""

from __future__ import annotations

import os
import sys
from _thread import _count

from distmap.tasks._typing import Any

#: Not known on this system.
UNKNOWN = -1


def held() -> tuple[int, int, int]:
    """Threads, open files, and processes that `multiprocessing` keeps; UNKNOWN where the system does not tell.

    Takes about 30 microseconds, and longer with many open files.
    """
    return _threads(), _files(), len(kept_processes())


def _threads() -> int:
    try:
        return os.stat("/proc/self/task").st_nlink - 2  # those of libraries too
    except OSError:  # not Linux, or no descriptor is left
        return _count() + 1


def _files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder))
        except OSError:
            continue  # not Linux, or no descriptor is left for the look itself
    return UNKNOWN


def kept_processes() -> set[Any]:
    """The processes that `multiprocessing`, `concurrent.futures` or joblib's loky started here and did not collect."""
    process = sys.modules.get("multiprocessing.process")
    return set(getattr(process, "_children", ()))
