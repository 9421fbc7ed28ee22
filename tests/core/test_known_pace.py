"""What is remembered of a function between two jobs."""

from __future__ import annotations

from typing import Any

from distmap.core import events as ev
from distmap.core.known_pace import KnownPace, KnownPaces


def run(harness: Any, assigns: list[ev.Assign]) -> None:
    """Run all of a job; each item takes 10 microseconds."""
    todo = list(assigns)
    while todo:
        assign = todo.pop(0)
        todo += harness.feed(harness.report(assign, seconds=0.00001 * (assign.hi - assign.lo)))


def test_the_pace_of_the_last_functions_is_kept() -> None:
    """The one that was not called for the longest is forgotten first."""
    paces = KnownPaces(2)
    slow, quick = KnownPace(1.0, 1, 8.0), KnownPace(0.001, 50, 8.0)
    paces.keep("a", quick)
    paces.keep("b", slow)
    paces.keep("a", slow)
    paces.keep("c", quick)
    assert [paces.get(name) for name in "abc"] == [slow, None, quick]


def test_the_next_job_of_a_function_begins_with_whole_chunks(harness: Any, pick: Any) -> None:
    """A job of another function, or of one that is not known, has single items first, which are measured."""
    harness.send(ev.WorkerJoined(1, 2))
    todo = harness.job(size=40_000, function="f")
    assert [assign.hi for assign in todo] == [1, 1, 5_000, 5_000]
    run(harness, todo)
    assert [assign.hi for assign in harness.job(size=4_000, function="f", job=2)][:2] == [500, 437]
    assert [assign.hi for assign in harness.job(size=4_000, function="g", job=3)] == []
    assert harness.snapshot(3).done == 0


def test_a_few_items_of_a_known_function_are_spread_over_the_slots(harness: Any, pick: Any) -> None:
    """They may take much longer than those of the job before, so no slot gets more than its share at first."""
    harness.send(ev.WorkerJoined(1, 4))
    run(harness, harness.job(size=100, function="f"))
    first = harness.job(size=9, function="f", job=2)
    assert [(assign.slot, assign.hi - assign.lo) for assign in first] == [(0, 2), (1, 2), (2, 2), (3, 2), (0, 1)]


def test_an_input_of_unknown_length_begins_with_single_items(harness: Any, pick: Any) -> None:
    """A few long items of it would share a slot."""
    harness.send(ev.WorkerJoined(1, 2))
    run(harness, harness.job(size=100, function="f"))
    (read,) = pick(harness.send(ev.JobSubmitted(2, ev.JobSpec(size=None, function="f"))), ev.Read)
    assert read.count == 1


def test_a_chunk_that_is_far_too_large_is_cut_at_its_first_report(harness: Any, pick: Any) -> None:
    """What is left of it goes on in chunks of the right size; one that is a little late is not cut."""
    harness.send(ev.WorkerJoined(1, 2))
    run(harness, harness.job(size=1_000, function="f"))
    first, second, *_ = harness.job(size=1_000, function="f", job=2)
    late = harness.report(second, hi=10, seconds=0.002, ended=False)
    assert [revoke.attempt for revoke in pick(late, ev.Revoke)] == []
    (revoke,) = pick(harness.report(first, hi=1, seconds=1.0, ended=False), ev.Revoke)
    assert (revoke.attempt, revoke.stop) == (first.attempt, first.lo + 2)


def test_a_chunk_of_fixed_size_is_not_cut(harness: Any, pick: Any) -> None:
    """However slow its items are."""
    harness.send(ev.WorkerJoined(1, 1))
    first, *_ = harness.job(size=1_000, chunksize=500)
    assert pick(harness.report(first, hi=1, seconds=1.0, ended=False), ev.Revoke) == []
