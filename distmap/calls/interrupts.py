"""When the user's interrupt is raised: once, and not again in the middle of what it has begun.

Owns `Interrupts` and `Held`. Python raises KeyboardInterrupt at any line of the main thread. A second one, microseconds
after the first, would stop the clean-up that the first one began: stopping the work, counting results, drawing the
card. Each map enters here, so the module below `signal` is used: that one makes enums of all it is given.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it is not in typeshed
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """While it is entered the first interrupt is raised, the second one noted; any further one is raised.

    It is entered before the work, as there is no moment between the first interrupt and the second that is safe.

    Args:
        noted: called when the second one comes; wakes the main thread if it waits. Must be safe in a signal handler.
    """

    def __init__(self, noted: Callable[[], object] = lambda: None) -> None:
        self._noted = noted
        self._usual: Callable[[int, FrameType | None], Any] | None = None
        #: The first one was raised. Whoever goes on all the same sets it back.
        self.raised = False
        #: The second one came.
        self.came = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # other threads get none
            usual = _signal.getsignal(_signal.SIGINT)
            if callable(usual):  # else interrupts are ignored, or end the process
                self._usual = usual
                try:
                    _signal.signal(_signal.SIGINT, self._handle)
                except KeyboardInterrupt:  # just now
                    self.__exit__(None, None, None)
                    raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not if somebody has set a handler of his own meanwhile.
        if self._usual is not None and _signal.getsignal(_signal.SIGINT) == self._handle:
            _signal.signal(_signal.SIGINT, self._usual)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        assert self._usual is not None
        if not self.raised:
            self.raised = True
            self._usual(number, frame)
            self.raised = False  # it raises nothing: a handler with ideas of its own
        elif not self.came:
            self.came = True
            self._noted()
        else:
            self._usual(number, frame)


class Held:
    """While it is entered an interrupt is only noted. It is raised by `check`, or at the end.

    For work that takes a moment and would leave something behind if it stopped at any line. Threads and processes that
    are started meanwhile inherit nothing of it.
    """

    def __init__(self) -> None:
        self._usual: Callable[[int, FrameType | None], Any] | None = None
        self._came = False

    def __enter__(self) -> Held:
        usual = _signal.getsignal(_signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(usual):
            self._usual = usual
            try:
                _signal.signal(_signal.SIGINT, self._handle)
            except KeyboardInterrupt:  # just now
                _signal.signal(_signal.SIGINT, usual)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._usual is not None and _signal.getsignal(_signal.SIGINT) == self._handle:
            _signal.signal(_signal.SIGINT, self._usual)
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise the interrupt that came."""
        if self._came and self._usual is not None:
            self._came = False
            self._usual(_signal.SIGINT, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._came = True
