"""What an item finds as its call should see it, whatever items before it did to their process.

Owns the rule: after an item, or some that took a few milliseconds together, the working directory, the environment, the
umask, handlers and timers of signals and the standard streams are set back to what they were when the function and its
set-ups were loaded. What a set-up changes lasts. Processes that items left behind are told of, and ended when the last
call of this process is over; `leftovers.py` finds them. For the main thread of a task process, which has no other work.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it is not in typeshed
import os
import sys
from time import monotonic

from distmap.tasks._typing import Any
from distmap.tasks.leftovers import Stray, end, has_children, reserve, strays

#: Seconds between two looks for processes that were left behind, while there are any.
_LOOK_EVERY = 1.0
#: How often processes are looked for and ended after a call, until there are none.
_ENDINGS = 5
#: Without those of real time, which hardly any program handles.
_SIGNALS = range(1, min(32, getattr(_signal, "NSIG", 1)))
_TIMERS = [
    getattr(_signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(_signal, name)
]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def _environ() -> dict[Any, Any]:
    environ: Any = os.environ
    found: dict[Any, Any] = getattr(environ, "_data", environ)  # as bytes, which are compared ten times faster
    return found


class Hygiene:
    """Sets back what items change; a look takes about ten microseconds.

    Args:
        streams: copies of descriptors 0 to 2, -1 where there is none.
    """

    def __init__(self, streams: list[int]) -> None:
        self._copies = streams
        self._files = [_identity(fd) for fd in range(len(streams))]
        #: Processes that set-ups started.
        self._kept: set[Stray] = set()
        self._told = False
        self._look_at = 0.0
        self._mask = _umask()
        self.begin()
        reserve.fill()

    def begin(self) -> None:
        """What is now is what items are to find; what they leave behind is looked for with the first of them."""
        self._look_at = 0.0
        self._cwd = _cwd()
        self._env = {**_environ()}
        self._handlers = [_signal.getsignal(number) for number in _SIGNALS]
        self._objects = sys.stdin, sys.stdout, sys.stderr

    def restore(self) -> None:
        """Set back what differs."""
        if _environ() != self._env:
            self._restore_environment()
        if self._cwd is not None and _cwd() != self._cwd:
            try:
                os.chdir(self._cwd)
            except OSError:
                pass  # it was deleted: what needs it says so better than we could
        os.umask(self._mask)
        handlers = [_signal.getsignal(number) for number in _SIGNALS]
        if handlers != self._handlers:
            self._restore_handlers(handlers)
        if (sys.stdin, sys.stdout, sys.stderr) != self._objects:
            sys.stdin, sys.stdout, sys.stderr = self._objects
        for fd, copy in enumerate(self._copies):
            if copy >= 0 and _identity(fd) != self._files[fd]:
                os.dup2(copy, fd)
        reserve.fill()

    def _restore_environment(self) -> None:
        decode = os.fsdecode
        wanted = {decode(name): decode(value) for name, value in self._env.items()}
        for name in [name for name in os.environ if name not in wanted]:
            del os.environ[name]
        for name, value in wanted.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    def _restore_handlers(self, handlers: list[Any]) -> None:
        # First the timers: the default for what they send ends the process.
        for timer in _TIMERS:
            _signal.setitimer(timer, 0)
        for number, now, before in zip(_SIGNALS, handlers, self._handlers, strict=True):
            if now is not before and before is not None:
                _signal.signal(number, before)

    # --- processes ---------------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """A set-up has run: what it changed and started is to last."""
        self._mask = _umask()
        self.begin()
        if has_children():
            self._kept.update(strays(self._kept))

    def left_behind(self) -> int:
        """How many processes items have left behind; 0 if that was told already for the calls that run here."""
        if self._told or not has_children() or (now := monotonic()) < self._look_at:
            return 0
        self._look_at = now + _LOOK_EVERY
        found = len(strays(self._kept))
        self._told = found > 0
        return found

    def call_over(self) -> None:
        """No call runs here any more: end what its items left behind."""
        self._told, self._look_at = False, 0.0
        for _ in range(_ENDINGS):  # a shell may have started another process just before its end
            if not (found := strays(self._kept)):
                break
            end(found)


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
