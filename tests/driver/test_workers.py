"""Which worker serves which job, and what happens to a job that none can serve."""

from __future__ import annotations

DEADLINE = 10


def test_a_job_with_no_worker_ends_with_a_reason(make_harness):
    """Nobody waits for ever for workers that do not come."""
    harness = make_harness(workers=0, worker_timeout=0.05, no_workers=lambda: RuntimeError("nobody came"))
    _, box = harness.open(lambda x: x, 5)
    finished = box.get(timeout=DEADLINE)
    assert str(finished.error) == "nobody came"


def test_names_of_workers_are_unique(make_harness):
    """Two workers of one name are told apart."""
    harness = make_harness(workers=2)
    assert [member.info.name for member in harness.portal.ask(harness.driver.members)] == ["inline", "inline-2"]


def test_tags_that_no_worker_has_end_with_a_reason(make_harness):
    """The error names the tags and who is there."""
    harness = make_harness(worker_timeout=0.05, no_workers=lambda: RuntimeError("nobody came"))
    _, box = harness.open(lambda x: x, 5, tags=frozenset(["gpu"]))
    finished = box.get(timeout=DEADLINE)
    assert "no worker has the tags ['gpu']" in str(finished.error)
    assert "inline (no tags)" in str(finished.error)
