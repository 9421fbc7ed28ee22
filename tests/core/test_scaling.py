"""The rule that says how many workers a launcher should have."""

from __future__ import annotations

from distmap.core.launch_limits import LaunchLimits
from distmap.core.scaling import Scaling, Waiting

LIMITS = LaunchLimits(work=60.0, shrink_after=60.0)


def test_a_fixed_number_is_kept_whatever_waits() -> None:
    """With equal bounds nothing else counts; other bounds count at once."""
    rule = Scaling(3, 3, LIMITS)
    assert rule.decide([], 0, 8, 0.0) == 3
    assert rule.decide([Waiting(1, 10**6, 0, 24)], 24, 8, 1000.0) == 3
    rule.bound(1, 1)
    assert rule.decide([Waiting(1, 10**6, 0, 24)], 24, 8, 1001.0) == 1


def test_the_first_work_brings_one_worker() -> None:
    """Without work there are as few as allowed; before anything is known of items, a job brings one worker."""
    rule = Scaling(0, 50, LIMITS)
    assert rule.decide([], 0, 8, 0.0) == 0
    assert rule.decide([Waiting(1, 10**6, 0, 0)], 0, 8, 1.0) == 1
    # It waits for its worker, and that costs no slot anything.
    assert rule.decide([Waiting(1, 10**6, 0, 0)], 0, 8, 500.0) == 1


def test_more_workers_come_by_what_the_items_cost() -> None:
    """A thousand items of ten seconds are 10,000 seconds of a slot: 167 slots do them in a minute."""
    rule = Scaling(0, 50, LIMITS)
    rule.decide([Waiting(1, 1008, 0, 8)], 8, 8, 0.0)
    assert rule.decide([Waiting(1, 1000, 8, 8)], 8, 8, 10.0) == 11  # 80 s for 16 tried: those that run end now
    assert rule.decide([Waiting(1, 992, 16, 8)], 8, 8, 20.0) == 14
    assert Scaling(0, 5, LIMITS).decide([Waiting(1, None, 0, 8)], 8, 1, 0.0) == 5  # never more than allowed


def test_long_items_are_seen_before_one_ends() -> None:
    """Slots that have run an item for long say that it is long; but no more slots than items are wanted."""
    rule = Scaling(0, 50, LIMITS)
    rule.decide([Waiting(1, 100, 0, 2)], 2, 2, 0.0)
    assert rule.decide([Waiting(1, 100, 0, 2)], 2, 2, 30.0) == 25
    assert rule.decide([Waiting(1, 100, 0, 2)], 2, 2, 3600.0) == 50
    few = Scaling(0, 50, LIMITS)
    few.decide([Waiting(1, 6, 0, 2)], 2, 2, 0.0)
    assert few.decide([Waiting(1, 6, 0, 2)], 2, 2, 3600.0) == 3


def test_work_of_a_moment_brings_nobody() -> None:
    """A million items that end in a few seconds are not worth another worker."""
    rule = Scaling(1, 50, LIMITS)
    rule.decide([Waiting(1, 10**6, 0, 8)], 8, 8, 0.0)
    assert rule.decide([Waiting(1, 800_000, 200_000, 8)], 8, 8, 1.0) == 1


def test_nobody_is_wanted_beside_idle_slots() -> None:
    """Where slots have nothing to do, because results are not taken, more workers would not help."""
    rule = Scaling(0, 50, LIMITS)
    rule.decide([Waiting(1, 10**4, 0, 8)], 8, 8, 0.0)
    assert rule.decide([Waiting(1, 10**4, 8, 3)], 8, 8, 100.0) == 1


def test_an_input_of_unknown_length_doubles_the_slots() -> None:
    """While nobody knows how much there is, busy slots bring as many again."""
    rule = Scaling(0, 50, LIMITS)
    assert rule.decide([Waiting(1, None, 0, 0)], 0, 8, 0.0) == 1
    assert rule.decide([Waiting(1, None, 0, 8)], 8, 8, 1.0) == 2
    assert rule.decide([Waiting(1, None, 0, 16)], 16, 8, 2.0) == 4


def test_fewer_are_wanted_only_after_a_while() -> None:
    """A pause in the work ends nobody; after a minute in which fewer were enough, the most of them stay."""
    rule = Scaling(0, 50, LIMITS)
    assert rule.decide([Waiting(1, None, 0, 32)], 32, 8, 0.0) == 8
    assert rule.decide([], 64, 8, 10.0) == 8
    assert rule.decide([Waiting(2, 100, 0, 24)], 64, 8, 30.0) == 8
    assert rule.decide([Waiting(2, 100, 0, 24)], 64, 8, 69.0) == 8
    assert rule.decide([], 64, 8, 70.0) == 3
    assert rule.decide([], 24, 8, 71.0) == 3
    # Work that comes in between begins the minute anew.
    assert rule.decide([Waiting(3, None, 0, 24)], 24, 8, 100.0) == 6
    assert rule.decide([], 48, 8, 101.0) == 6
    assert rule.decide([], 48, 8, 140.0) == 6
    assert rule.decide([], 48, 8, 161.0) == 0


def test_jobs_add_up_and_are_forgotten() -> None:
    """Each job counts for itself; the rest of one that is nearly done holds only the slots that it has."""
    rule = Scaling(0, 50, LIMITS)
    jobs = [Waiting(1, 100, 0, 4), Waiting(2, 100, 0, 4)]
    rule.decide(jobs, 8, 1, 0.0)
    assert rule.decide(jobs, 8, 1, 10.0) == 34
    assert rule.decide([Waiting(1, 0, 100, 4)], 4, 1, 20.0) == 34
    assert rule.decide([Waiting(1, 0, 100, 4)], 4, 1, 80.0) == 4
    assert rule.decide([Waiting(2, 100, 0, 4)], 4, 1, 1000.0) == 4  # what it had cost is not known any more
