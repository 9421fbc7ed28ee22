"""What commands do to the bytes of jobs: they are delivered, and forgotten in time."""

from __future__ import annotations

import queue

import pytest

from distmap.calls.results import results_of
from distmap.core.events import Consumed, ItemsAdded, JobSpec
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Landed, ReadRequest
from distmap.engine.inline import InlineEngine
from distmap.errors import PayloadError
from distmap.tasks.broadcast import Broadcast
from distmap.tasks.code import dump_code
from distmap.tasks.items import dump_items, load_results
from distmap.wire.messages import Died, Ready

DEADLINE = 10


def test_an_ordered_job_delivers_after_its_chunks_were_released(harness):
    """Results that wait for an earlier one still know their place."""
    job, box = harness.open(lambda x: x, 30, gather="ordered", chunksize=3)
    found = {}
    items = list(range(30))
    landed = []
    while len(found) < 30:
        message = box.get(timeout=DEADLINE)
        if isinstance(message, ReadRequest):
            taken, items = items[: message.most], items[message.most :]
            payload, blobs = dump_items(taken)
            harness.portal.call(harness.driver.chunk_read, job, message.chunk, payload, blobs, len(taken), not items)
        elif isinstance(message, Landed):
            values, _ = results_of(message)
            landed.append(message.start + message.lo)
            found.update(enumerate(values, landed[-1]))
            harness.portal.call(harness.driver.notify, Consumed(job, len(values), message.report.nbytes))
    assert landed == sorted(landed)
    assert found == {x: x for x in range(30)}


def test_failed_tries_are_counted(harness):
    """A report knows which try of an item failed."""

    def fail(x):
        raise ValueError(x)

    job, box = harness.open(fail, 1, retries=2, stop_on_failure=False)
    found, finished = harness.serve(job, box, [7])
    assert "attempt 3" in found[0].__notes__[0]
    assert finished.snapshot.retried == 2


def test_a_job_that_goes_on_leaves_nothing_of_what_is_done(harness):
    """Items that raised and attempts whose process died are forgotten with their chunk, not with their job."""

    def fail(x):
        raise ValueError(x)

    box = queue.SimpleQueue()
    spec = JobSpec(size=None, pushed=True, stop_on_failure=False, chunksize=2)
    driver, chunks = harness.driver, []

    def sink(message):
        if isinstance(message, ReadRequest):  # of pushed items: answered inside the sink
            chunks.append(message.chunk)
            driver.chunk_taken(record.id, message.chunk, *dump_items([1, 2]), 2)
        elif isinstance(message, Landed):
            box.put(message)

    record = JobEntry(spec, dump_code(fail), sink)

    def push_and_die():
        driver.notify(ItemsAdded(record.id, 2, 0))
        (attempt,) = driver._attempts._running
        (worker,) = driver.workers
        worker.died(Died(0, attempt, 1, "died", "for a test"))
        assert not driver._attempts
        assert record.chunks[chunks[0]].deaths == {1: [("inline", "for a test")]}
        worker.ready(Ready(0))

    harness.portal.ask(driver.open, record)
    harness.portal.ask(push_and_die)
    landed = [box.get(timeout=DEADLINE) for _ in range(2)]
    assert sorted((message.lo, message.hi) for message in landed) == [(0, 1), (1, 2)]
    state = harness.portal.ask(driver.snapshots.find, record.id).state
    assert (state, *harness.portal.ask(lambda: (record.chunks, len(driver._attempts)))) == (
        "running", {}, 0,
    )  # fmt: skip


def test_a_pinned_broadcast_outlives_its_job(harness):
    """A broadcast stays on the workers until it is unpinned; a function goes with its job."""
    handle = Broadcast({"k": 1})
    harness.portal.call(harness.driver.blobs.pin, handle.digest)
    job, box = harness.open(lambda x: handle.value["k"] + x, 1)
    found, _ = harness.serve(job, box, [1])
    assert found == {0: 2}
    assert harness.portal.ask(lambda: (len(harness.driver.blobs), handle.digest in harness.driver.blobs)) == (1, True)
    harness.portal.ask(harness.driver.blobs.unpin, handle.digest)
    assert not harness.portal.ask(lambda: len(harness.driver.blobs))


class Narrow(InlineEngine):
    """An engine whose connection takes small messages only."""

    def check(self, parts):
        if (nbytes := sum(memoryview(part).nbytes for part in parts)) > 10_000:
            raise PayloadError(f"a message of {nbytes} bytes is too large to be sent")

    def put(self, worker, digest, kind, parts, name=""):
        self.check(parts)
        super().put(worker, digest, kind, parts, name)

    def assign(self, worker, task, parts):
        self.check(parts)
        super().assign(worker, task, parts)


@pytest.fixture
def narrow(make_harness):
    """A driver with one such worker."""
    harness = make_harness(workers=0)
    harness.engines.append(Narrow())
    harness.portal.run(harness.engines[0].start(harness.driver)).result(DEADLINE)
    return harness


def test_an_item_that_no_message_holds_fails_alone(narrow):
    """It is the item's error; the others are done, and the pool goes on."""
    job, box = narrow.open(len, 3, chunksize=1, stop_on_failure=False)
    found, last = narrow.serve(job, box, [b"a", bytes(20_000), b"bcd"])
    assert (found[0], found[2], last.outcome) == (1, 3, "done")
    assert isinstance(found[1], PayloadError)
    assert "too large to be sent" in str(found[1])


def test_a_function_that_no_message_holds_ends_its_job(narrow):
    """The job fails with the reason, each time, and the next one runs."""
    large = bytes(range(256)) * 100
    for _ in range(2):
        job, box = narrow.open(lambda x: large[x], 1)
        found, last = narrow.serve(job, box, [1])
        assert (found, last.outcome) == ({}, "failed")
        assert "too large to be sent" in load_results(last.refusals[0].parts, 0, 1)[0].message
    job, box = narrow.open(abs, 1)
    assert narrow.serve(job, box, [-1])[0] == {0: 1}
