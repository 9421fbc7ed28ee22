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
