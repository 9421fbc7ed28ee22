"""What is kept of many calls."""

from __future__ import annotations

from distmap.core.progress import Block, Lane, Snapshot
from distmap.views.stats import MAX_FAILED, MAX_SLOWEST, FinishedCall, FunctionStats, overall_state

LANE = Lane("local", 2, "idle", 4, 1, 0, 0.5, 1, (Block(0, 0.0, 0.1, "done"),))
DONE = Snapshot("f", "done", 4, 4, 0, 0, 0, 0, 0, 0, 0, 0.1, 0.0, None, (LANE,))


def stats(*snapshots: Snapshot) -> FunctionStats:
    made = FunctionStats("f", "map")
    for snapshot in snapshots:
        made.end_call(FinishedCall(made.begin_call("f"), snapshot))
    return made


def test_a_thousand_calls_are_a_few_numbers() -> None:
    """Sums, the slowest calls, the first that failed: bounded however many there are."""
    many = stats(*(DONE._replace(elapsed=n / 1000, failed=n % 2) for n in range(1000)))
    assert (many.begun, many.ended, many.running, many.items, many.wrong) == (1000, 1000, 0, 4000, 500)
    assert round(many.seconds, 3) == 499.5
    assert [call.number for call in many.slowest] == [1000, 999, 998][:MAX_SLOWEST]
    assert [call.number for call in many.failed] == [2, 4, 6, 8, 10][:MAX_FAILED]


def test_timelines_of_moments_are_not_kept() -> None:
    """Only a call that lasted, or the first one, keeps what its workers did and when."""
    kept = stats(DONE, DONE._replace(elapsed=0.2), DONE._replace(elapsed=2.0)).slowest
    assert {call.number: bool(call.snapshot.lanes[0].blocks) for call in kept} == {1: True, 2: False, 3: True}


def test_other_words_for_each_call_are_one_function() -> None:
    """Where every call has a title of its own the row has the name of the function."""
    made = FunctionStats("epoch 1", "", ("train", "map"))
    made.begin_call("epoch 1")
    assert (made.title, made.kind) == ("epoch 1", "")
    made.begin_call("epoch 2")
    assert (made.title, made.kind) == ("train", "map")


def test_the_state_of_all() -> None:
    """While one goes on, all do; else the last end of each function counts, the worst of them most."""
    good, bad = stats(DONE), stats(DONE, DONE._replace(state="failed"))
    assert [overall_state(some) for some in ([], [good], [good, bad])] == ["done", "done", "failed"]
    good.begin_call("f")
    assert overall_state([good, bad]) == "running"
