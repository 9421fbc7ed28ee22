"""A capture of prints whose Outputs are collected, with a clock that tests set."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from distmap.tasks import capture as module
from distmap.tasks.capture import OutputCapture
from distmap.tasks.streams import RedirectedStream
from distmap.wire.messages import Output, Task

DEADLINE = 10.0


class Captured:
    """What an attempt's capture passes on, and a clock that stands still unless told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self.outputs: list[Output] = []
        self.found: list[tuple[int, int, str]] = []
        #: Whether something can go without waiting; called with each Output.
        self.ready: Callable[[Output], bool] = lambda output: True
        self.news = threading.Condition()
        self.capture = OutputCapture(self.take)
        self.cells = [-1] * 8
        self.out = RedirectedStream(0, None, self.capture.current)
        self.err = RedirectedStream(1, None, self.capture.current)
        self.begin()

    def begin(self, **fields: bool) -> None:
        self.capture.begin(Task(3, 9, b"c" * 16, (), 0, 10, 0, 0.0)._replace(**fields), self.cells)

    def take(self, output: Output, text: bytes, wait: bool) -> bool:
        if not wait and not self.ready(output):
            return False
        assert (output.slot, output.attempt) == (3, 9)
        assert output.spells(len(text))
        with self.news:
            self.outputs.append(output)
            lo = 0
            for at, stream, size in output.pieces:
                self.found.append((at, stream, text[lo : lo + size].decode()))
                lo += size
            self.news.notify_all()
        return True

    def end(self) -> None:
        with self.capture.lock:
            self.capture.end()

    @property
    def text(self) -> str:
        return "".join(text for _, _, text in self.found)

    @property
    def dropped(self) -> int:
        return sum(output.dropped for output in self.outputs)

    def until(self, happened: Callable[[], object]) -> None:
        with self.news:
            assert self.news.wait_for(happened, DEADLINE), self.outputs
