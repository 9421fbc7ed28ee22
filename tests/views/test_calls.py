"""What is kept of many calls."""

from __future__ import annotations

from distmap.core.progress import Block, Lane, Snapshot
from distmap.views.calls import FAILED, SLOWEST, Call, Tally, state_of

LANE = Lane("local", 2, "idle", 4, 1, 0, 0.5, 1, (Block(0, 0.0, 0.1, "done"),))
DONE = Snapshot("f", "done", 4, 4, 0, 0, 0, 0, 0, 0, 0, 0.1, 0.0, None, (LANE,))


def tally(*snapshots: Snapshot) -> Tally:
    made = Tally("f", "map")
    for snapshot in snapshots:
        made.end(Call(made.begin("f"), snapshot))
    return made


def test_a_thousand_calls_are_a_few_numbers() -> None:
    """Sums, the slowest calls, the first that failed: bounded however many there are."""
    many = tally(*(DONE._replace(elapsed=n / 1000, failed=n % 2) for n in range(1000)))
    assert (many.calls, many.ended, many.running, many.items, many.wrong) == (1000, 1000, 0, 4000, 500)
    assert round(many.seconds, 3) == 499.5
    assert [call.number for call in many.slowest] == [1000, 999, 998][:SLOWEST]
    assert [call.number for call in many.failed] == [2, 4, 6, 8, 10][:FAILED]
    assert [call.number for call in many.noted()] == [2, 4, 6, 8, 10, 1000, 999, 998]


def test_a_call_is_listed_once() -> None:
    """One that was slow and failed stands with those that failed."""
    assert [call.number for call in tally(DONE._replace(failed=1), DONE).noted()] == [1, 2]


def test_timelines_of_moments_are_not_kept() -> None:
    """Only a call that lasted, or the first one, keeps what its workers did and when."""
    kept = tally(DONE, DONE._replace(elapsed=0.2), DONE._replace(elapsed=2.0)).slowest
    assert {call.number: bool(call.snapshot.lanes[0].blocks) for call in kept} == {1: True, 2: False, 3: True}


def test_other_words_for_each_call_are_one_function() -> None:
    """Where every call has a title of its own the row has the name of the function."""
    made = Tally("epoch 1", "", ("train", "map"))
    made.begin("epoch 1")
    assert (made.title, made.kind) == ("epoch 1", "")
    made.begin("epoch 2")
    assert (made.title, made.kind) == ("train", "map")


def test_the_state_of_all() -> None:
    """While one goes on, all do; else the last end of each function counts, the worst of them most."""
    good, bad = tally(DONE), tally(DONE, DONE._replace(state="failed"))
    assert [state_of(some) for some in ([], [good], [good, bad])] == ["done", "done", "failed"]
    good.begin("f")
    assert state_of([good, bad]) == "running"
