"""The driver carries out what the scheduler decides, and nobody waits for ever."""

from __future__ import annotations

from distmap.core.events import Assign, ChunkRead, Consumed, DispatchMeasured, JobSubmitted, Read
from distmap.driver.driver import MEASURED
from distmap.tasks.items import dump_items

DEADLINE = 10


def test_a_job_runs_to_its_end(harness):
    """Reads are asked for, every result lands once, and Finished is the last message."""
    job, box = harness.open(lambda x: x * x, 100)
    found, finished = harness.serve(job, box, range(100))
    assert found == {x: x * x for x in range(100)}
    assert finished.outcome == "done"
    assert (finished.snapshot.done, finished.snapshot.total) == (100, 100)
    idle = []
    harness.portal.ask(harness.driver.when_idle, lambda: idle.append(True))
    assert idle == [True]


def test_input_that_fails_is_the_error_of_the_job(harness):
    """What reading raised comes with Finished."""
    job, box = harness.open(lambda x: x, None)
    request = box.get(timeout=DEADLINE)
    error = OSError("disk gone")
    harness.portal.call(harness.driver.input_failed, job, request.chunk, error)
    finished = box.get(timeout=DEADLINE)
    assert finished.outcome == "failed"
    assert finished.error is error


def test_a_bug_ends_every_job(harness):
    """An exception inside the driver reaches the consumers as the error of their jobs."""
    _, box = harness.open(lambda x: x, 5)
    box.get(timeout=DEADLINE)
    harness.portal.call(harness.driver.post, "no event")
    finished = box.get(timeout=DEADLINE)
    assert finished.outcome == "failed"
    assert finished.error is harness.told[0]


def test_closing_ends_what_is_left(harness):
    """A job that is open when the pool ends is told so."""
    _, box = harness.open(lambda x: x, 5)
    box.get(timeout=DEADLINE)
    harness.portal.ask(harness.driver.close)
    assert box.get(timeout=DEADLINE).outcome == "cancelled"


def test_a_broken_driver_takes_no_more_jobs(harness):
    """After a bug a new job ends at once instead of waiting for slots that are lost."""
    harness.portal.call(harness.driver.post, "no event")
    _, box = harness.open(lambda x: x, 5)
    assert "bug of distmap" in str(box.get(timeout=DEADLINE).error)


def test_the_trace_tells_cause_and_effect(harness):
    """Each event is one entry with the commands that it caused."""
    job, box = harness.open(lambda x: x, 1)
    harness.serve(job, box, [0])
    caused = {type(event): [type(command) for command in commands] for _, event, commands in harness.driver.trace}
    assert caused[JobSubmitted] == [Read]
    assert caused[ChunkRead] == [Assign]


def test_the_cost_of_chunks_is_measured(harness):
    """After so many chunks the scheduler is told what one of them cost the loop."""
    job, box = harness.open(lambda x: x, None, chunksize=1)
    harness.serve(job, box, range(2 * MEASURED))
    told = [event.seconds for _, event, _ in harness.driver.trace if isinstance(event, DispatchMeasured)]
    assert len(told) == 2
    assert all(0 < seconds < 1 for seconds in told)


def test_a_closed_driver_carries_out_nothing(harness):
    """What the scheduler had planned when the pool was closed is not done; jobs that come later end at once."""
    job, box = harness.open(lambda x: x, 5)
    request = box.get(timeout=DEADLINE)
    harness.portal.ask(harness.driver.close)
    assert box.get(timeout=DEADLINE).outcome == "cancelled"
    payload, blobs = dump_items([1])
    harness.portal.ask(harness.driver.chunk_read, job, request.chunk, payload, blobs, 1, True)
    harness.portal.ask(harness.driver.notify, Consumed(job, 1, 0))
    _, late = harness.open(lambda x: x, 5)
    assert "Pool not running" in str(late.get(timeout=DEADLINE).error)
    assert box.empty()
