"""What `sys.stdout` and `sys.stderr` are where tasks run.

Owns `RedirectedStream`, which writes to the `OutputCapture` of the attempt that runs, and otherwise to the original
stream. Imported by task processes, so it needs `io`, which Python itself has loaded, and little else.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

from distmap.tasks._typing import Any
from distmap.tasks.capture import OutputCapture


class RedirectedStream(io.TextIOBase):
    """Stands in for `sys.stdout` (number 0) or `sys.stderr` (1).

    What is written while `current` gives a capture goes there, all else to the original. Closing it does nothing: it
    serves all tasks of its process.
    """

    encoding = "utf-8"
    errors = "replace"
    newlines = None
    line_buffering = True
    write_through = False
    mode = "w"

    def __init__(self, number: int, original: Any, current: Callable[[], OutputCapture | None]) -> None:
        self.name = ("<stdout>", "<stderr>")[number]
        self._number = number
        self._original = original
        self._current = current
        self._buffer: _Bytes | None = None

    def write(self, text: str) -> int:
        capture = self._current()
        if capture is None:
            return len(text) if self._original is None else self._original.write(text)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        # Exactly a string: a thread of ours must not run methods of the task's.
        capture.write(self._number, text if type(text) is str else str.__str__(text))
        if capture.after_write is not None:
            capture.after_write(sys._getframe(1))
        return len(text)

    def flush(self) -> None:
        capture = self._current()
        if capture is not None:
            capture.write(self._number, None)
        elif self._original is not None:
            self._original.flush()

    @property
    def buffer(self) -> _Bytes:
        """For bytes, which are taken as UTF-8."""
        if self._buffer is None:
            self._buffer = _Bytes(self, self._original)
        return self._buffer

    def detach(self) -> Any:
        return self.buffer

    def close(self) -> None:
        pass  # not even a flush: the collector closes too

    def fileno(self) -> int:
        """The real one: what a process that the task starts writes there does not come by here."""
        if self._original is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._original.fileno())

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def reconfigure(self, **_: Any) -> None:
        """Accepted, and without effect."""

    def __reduce__(self) -> Any:
        return _standard, (self.name[1:-1],)


class _Bytes(io.BufferedIOBase):
    """The `buffer` of a RedirectedStream."""

    mode = "wb"

    def __init__(self, stream: RedirectedStream, original: Any) -> None:
        import codecs

        self.name = stream.name
        self._stream = stream
        self._original = getattr(original, "buffer", None)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: Any) -> int:
        if self._stream._current() is None:
            return len(data) if self._original is None else int(self._original.write(data))
        view = memoryview(data)
        self._stream.write(self._decoder.decode(view.tobytes()))
        return view.nbytes

    def flush(self) -> None:
        if self._stream._current() is None and self._original is not None:
            self._original.flush()
        else:
            self._stream.flush()

    def detach(self) -> Any:
        return self

    raw = property(detach)

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True


def _standard(name: str) -> Any:
    return getattr(sys, name)


def install(current: Callable[[], OutputCapture | None]) -> tuple[RedirectedStream, RedirectedStream]:
    """Put streams in the places of standard output and error."""
    out = sys.stdout = RedirectedStream(0, sys.stdout, current)
    err = sys.stderr = RedirectedStream(1, sys.stderr, current)
    return out, err
