"""A driver with inline workers, on a loop of its own."""

from __future__ import annotations

import queue

import pytest

from distmap.calls.results import results_of
from distmap.core.events import JobSpec
from distmap.driver.driver import Driver
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Finished, Landed, Lost, ReadRequest
from distmap.driver.portal import Portal
from distmap.engine.inline import InlineEngine
from distmap.tasks.code import dump_code
from distmap.tasks.items import dump_items

DEADLINE = 10


class Harness:
    """A driver with one inline worker, and the messages of the jobs it was given."""

    def __init__(self, *, workers=1, **options):
        told = []
        self.portal = Portal(crashed=lambda error: (told.append(error), self.driver.crashed(error)))
        self.told = told
        self.driver = self.portal.ask(lambda: Driver(self.portal.loop, **options))
        self.engines = [InlineEngine() for _ in range(workers)]
        for engine in self.engines:
            self.portal.run(engine.start(self.driver)).result(DEADLINE)

    def open(self, fn, size, **spec):
        """Open a job and give its id and its messages."""
        box = queue.SimpleQueue()
        record = JobEntry(JobSpec(size=size, name="job", **spec), dump_code(fn), box.put)
        return self.portal.ask(self.driver.open, record), box

    def serve(self, job, box, items):
        """Answer reads from `items`, and give results by index and the last message."""
        items, found = list(items), {}
        while True:
            message = box.get(timeout=DEADLINE)
            if isinstance(message, Finished):
                return found, message
            if isinstance(message, ReadRequest):
                taken, items = items[: message.most], items[message.most :]
                payload, blobs = dump_items(taken)
                self.portal.call(self.driver.chunk_read, job, message.chunk, payload, blobs, len(taken), not items)
            elif isinstance(message, Landed):
                values, failed = results_of(message)
                first = message.start + message.lo
                found.update(zip(range(first, first + len(values)), values, strict=True))
                found.update(failed)
            elif isinstance(message, Lost):
                found[message.item] = message.cause

    def close(self):
        async def close():
            self.driver.close()
            for engine in self.engines:
                await engine.close(now=True)

        self.portal.run(close()).result(DEADLINE)
        self.portal.close()


@pytest.fixture
def harness():
    """A driver with one inline worker."""
    made = Harness()
    yield made
    made.close()


@pytest.fixture
def make_harness():
    """Makes drivers with the options and workers that a test asks for."""
    made = []

    def make(**options):
        made.append(Harness(**options))
        return made[-1]

    yield make
    for harness in made:
        harness.close()
