"""Who gets snapshots of jobs, and when."""

from __future__ import annotations

import queue

from distmap.core.events import JobSpec
from distmap.driver.jobs import JobEntry
from distmap.tasks.code import dump_code

DEADLINE = 10


def test_a_watched_job_has_a_latest_snapshot(harness):
    """The timer runs while a job is watched, and gives it a fresh snapshot each time."""
    seen = queue.SimpleQueue()

    class Watched(JobEntry):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "latest" and value is not None:
                seen.put(value)

    entry = Watched(JobSpec(size=5, name="job"), dump_code(abs), lambda message: None, total=7)
    job = harness.portal.ask(harness.driver.open, entry)
    assert seen.empty()
    harness.portal.ask(harness.driver.snapshots.watch, job, True)
    first, second = seen.get(timeout=DEADLINE), seen.get(timeout=DEADLINE)
    assert (first.total, second.total) == (5, 5)
    harness.portal.ask(harness.driver.snapshots.watch, 99, True)


def test_the_total_of_the_user_counts_where_the_input_has_none(harness):
    """A generator has no length: `total=` gives the bar its end."""
    entry = JobEntry(JobSpec(size=None), dump_code(abs), lambda message: None, total=7)
    job = harness.portal.ask(harness.driver.open, entry)
    assert harness.portal.ask(harness.driver.snapshots.find, job).total == 7
    assert harness.portal.ask(harness.driver.snapshots.find, 99) is None


def test_known_items_count_as_done(harness):
    """Items of a checkpoint, of which the scheduler knows nothing, are in `done`, and in the total once all is read."""
    entry = JobEntry(JobSpec(size=10), dump_code(abs), lambda message: None, checkpoint="scores.sqlite")
    job = harness.portal.ask(harness.driver.open, entry)
    harness.portal.ask(harness.driver.recalled, job, 4)
    harness.portal.ask(harness.driver.recalled, 99, 4)
    seen = harness.portal.ask(harness.driver.snapshots.find, job)
    assert (seen.done, seen.total, seen.known, seen.checkpoint) == (4, 10, 4, "scores.sqlite")


def test_a_worker_out_of_reach_is_shown_as_reconnecting(harness):
    """Its lane says so with the seconds of its silence; when it is back, the jobs that saw it count that once."""
    entries = [JobEntry(JobSpec(size=5, name="job"), dump_code(abs), lambda message: None) for _ in range(2)]
    job = harness.portal.ask(harness.driver.open, entries[0])
    [worker] = harness.portal.ask(lambda: list(harness.driver.workers))

    def look(number):
        return harness.portal.ask(harness.driver.snapshots.find, number)

    harness.portal.ask(worker.disconnected, "the connection broke")
    [lane] = look(job).lanes
    assert lane.state == "reconnecting"
    assert 0.0 <= lane.silent < DEADLINE
    harness.portal.ask(worker.resumed, 0.5, 3)
    seen = look(job)
    assert (seen.lanes[0].state, seen.lanes[0].silent, seen.resumes) == ("idle", 0.0, 1)
    assert look(harness.portal.ask(harness.driver.open, entries[1])).resumes == 0
