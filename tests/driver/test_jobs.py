"""What is kept of a job, and for how long."""

from __future__ import annotations

import queue
import weakref

import numpy as np

from distmap.core.events import JobSpec
from distmap.driver.jobs import MAX_INCIDENTS, JobEntry
from distmap.driver.messages import Refusal
from distmap.tasks.code import dump_code
from distmap.wire.messages import NOTICE


def test_a_job_that_is_over_holds_no_code(harness):
    """Whoever keeps its record does not keep what the function captured."""
    captured = np.zeros(100_000)
    gone = weakref.ref(captured)
    box = queue.SimpleQueue()
    record = JobEntry(JobSpec(size=1), dump_code(lambda x: captured[x]), box.put)  # noqa: F821  (deleted below)
    del captured
    found, _ = harness.serve(harness.portal.ask(harness.driver.open, record), box, [0])
    assert found == {0: 0}
    assert record.code.blobs == ()
    assert gone() is None


def test_notices_are_bounded():
    """A line is kept once with all its workers; a worker that sends ever new lines fills no memory."""
    entry = JobEntry(JobSpec(size=1), dump_code(abs), lambda message: None)
    for worker in ("ann", "bob", "ann"):
        entry.notice(NOTICE, "numpy 1.0 there, 2.0 here", worker)
    assert entry.notices == {(NOTICE, "numpy 1.0 there, 2.0 here"): ["ann", "bob"]}
    for number in range(2 * MAX_INCIDENTS):
        entry.notice(NOTICE, f"line {number}", "ann")
    assert len(entry.notices) == MAX_INCIDENTS


def test_the_worst_refusal_of_a_worker_counts():
    """That it has other packages says less than that the code does not load; each is told once."""
    told = []
    entry = JobEntry(JobSpec(size=1), dump_code(abs), told.append)
    other, broken = Refusal("ann", [b"1"], unfit=True), Refusal("ann", [b"2"], unfit=False)
    for refusal in (other, other):
        entry.refuse(1, refusal)
    assert not entry.refused_by(1)
    entry.let_in(1)
    for refusal in (other, broken, broken, other):
        entry.refuse(1, refusal)
    assert entry.refused_by(1)
    assert entry.refusals == {1: broken}
    assert [incident.refusal for incident in told] == [other, broken]
