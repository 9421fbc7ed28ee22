"""What tasks leave behind in their process: threads, open files, processes.

Owns how these are counted, found and ended. Decides nothing: `hygiene.py` decides what is ended when, `slots/slot.py`
when a process holds too much. Imported by task processes, so it stays light.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it is not in typeshed
import os
import sys
from _thread import _count
from time import monotonic, sleep

from distmap.tasks._typing import Any

#: Not known on this system.
UNKNOWN = -1
#: Descriptors that are kept back: imports and sources of a traceback need one or two at a time.
_RESERVE = 4
#: Seconds that processes which were killed have to end, before this one goes on.
_END_SECONDS = 1.0


class Reserve:
    """Descriptors that are kept back, so that an error can be described after items took all the others."""

    def __init__(self) -> None:
        self._kept: list[int] = []

    def fill(self) -> None:
        """Take them, as far as there are any."""
        try:
            while len(self._kept) < _RESERVE:
                self._kept.append(os.dup(0))
        except OSError:
            pass  # there are none just now, or a task closed descriptor 0: the next call tries again

    def release(self) -> bool:
        """Let go of them; False if there were none."""
        kept, self._kept = self._kept, []
        for fd in kept:
            try:
                os.close(fd)
            except OSError:
                continue  # a task closed all that it could find
        return bool(kept)


#: Of this process; filled in task processes only.
reserve = Reserve()


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


#: A process: its number and when it began, which a later process of that number does not share.
Stray = tuple[int, bytes]


def has_children() -> bool:
    """Whether this process has any child, or one that has ended and was not collected. A microsecond."""
    if not hasattr(os, "waitid"):
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _collected_any() -> bool:
    """Whether any child of this process was ever collected: a child of that child may be left."""
    with open("/proc/self/stat", "rb", buffering=0) as file:
        return _fields(file.read(1024))[8] != b"0"  # page faults of children that were waited for


def _fields(text: bytes) -> list[bytes]:
    """The fields of a line of /proc/PID/stat from the state on: before it stands a name of any characters."""
    return text[text.rindex(b")") + 2 :].split()


def strays(kept: set[Stray]) -> list[Stray]:
    """The living processes of this one's process group that nobody keeps. Linux only; a look at all processes.

    Those that `multiprocessing`, `concurrent.futures` or joblib keep are theirs, as are their helpers, and those that
    made a session of their own are nobody's any more.
    """
    if not sys.platform.startswith("linux") or os.getpgrp() != os.getpid() or not (has_children() or _collected_any()):
        return []
    own = {os.getpid(), *_helpers(), *[process.pid for process in kept_processes()]}
    group, found = b"%d" % os.getpgrp(), []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) in own:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                state, parent, pgrp, *more = _fields(file.read(1024))
        except OSError:
            continue  # it has ended
        # A child of a kept process is that one's.
        if pgrp == group and state not in b"ZX" and int(parent) not in own - {os.getpid()}:
            found.append((int(name), more[16]))
    return [stray for stray in found if stray not in kept]


def _helpers() -> list[int]:
    """The processes that track resources for libraries, and that fork for them."""
    found = []
    for name, module in list(sys.modules.items()):
        if name.endswith(".resource_tracker"):
            found.append(getattr(getattr(module, "_resource_tracker", None), "_pid", None))
        elif name.endswith(".forkserver"):
            found.append(getattr(getattr(module, "_forkserver", None), "_forkserver_pid", None))
    return [pid for pid in found if isinstance(pid, int)]


def end(processes: list[Stray]) -> None:
    """End processes now, and collect those that are children of this one."""
    for pid, _ in processes:
        try:
            os.kill(pid, _signal.SIGKILL)
        except OSError:
            continue  # it has ended, or became another user's
    deadline = monotonic() + _END_SECONDS
    left = processes
    while left and monotonic() < deadline:
        left = [stray for stray in left if _is_left(stray)]
        if left:
            sleep(0.001)


def _is_left(stray: Stray) -> bool:
    try:
        return os.waitpid(stray[0], os.WNOHANG)[0] == 0
    except ChildProcessError:
        pass  # a child's child, or collected by whoever started it
    try:
        with open(f"/proc/{stray[0]}/stat", "rb", buffering=0) as file:
            state, *more = _fields(file.read(1024))
    except OSError:
        return False
    return state not in b"ZX" and more[18] == stray[1]
