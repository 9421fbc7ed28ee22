"""A runner whose reports are collected, for tests of what runs in a task process."""

from __future__ import annotations

from typing import Any

from distmap.tasks.code import dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.tasks.payload import Blob, Payload
from distmap.tasks.runner import Runner
from distmap.wire.messages import Refused, Report, Task

ATTEMPT = 7


class Outcome:
    """What a run of a task emitted."""

    def __init__(self) -> None:
        self.messages: list[Report | Refused] = []
        self.values: list[Any] = []
        self.cells = [-1] * 8
        self.runner = Runner()

    @property
    def reports(self) -> list[tuple[int, int, bool]]:
        return [(message.lo, message.hi, message.ended) for message in self.messages if isinstance(message, Report)]

    @property
    def failed(self) -> list[int]:
        return [at for message in self.messages if isinstance(message, Report) for at in message.failed]

    def emit(self, message: Report | Refused, payload: Payload) -> None:
        self.messages.append(message)
        parts = [bytearray(part) for part in payload.parts]
        if isinstance(message, Report):
            self.values += load_results(parts, message.lo, message.hi, message.failed)
        else:
            self.values += load_results(parts, 0, 1)

    def run(self, fn: Any, items: Any, lo: int = 0, hi: int | None = None, start: int = 0, **options: Any) -> Outcome:
        code = dump_code(fn, **options)
        payload, blobs = items if type(items) is tuple and type(items[0]) is Payload else dump_items(items)
        before = [Blob(setup.code.digest, "code", setup.code.payload) for setup in code.setups]
        needs = (*before, *code.blobs, *blobs)
        for blob in needs:
            self.runner.put(*blob[:3])
        self.runner.put(code.digest, "code", code.payload)
        hi = len(items) if hi is None else hi
        task = Task(2, ATTEMPT, code.digest, tuple(blob.digest for blob in needs), lo, hi, start, 0.0)
        self.runner.run(task, payload, self.cells, self.emit)
        return self


def run(fn: Any, items: Any, *args: Any, **options: Any) -> Outcome:
    return Outcome().run(fn, items, *args, **options)


class Interrupting:
    """A function whose unpickling raises KeyboardInterrupt."""

    def __reduce__(self) -> Any:
        return interrupt, ()

    def __call__(self, x: Any) -> Any:
        return x


def interrupt() -> None:
    raise KeyboardInterrupt
