"""Results that an iterator gives away, block by block."""

from __future__ import annotations

import gc
import weakref

from distmap.calls.runs import FREE, NOTHING, BlockSize, Run


def test_blocks_give_every_value_once_and_cost_what_the_message_costs() -> None:
    """In order, however the blocks are cut; the bytes of all blocks are those of the message."""
    run = Run("message", [*range(9, -1, -1)], (10, 103))
    given, costs = [], []
    for most in (1, 4, 3, 100):
        before = run
        run = before.rest(most)
        again = before.rest(most)  # as after an interrupt: nothing was lost
        assert (again.values, again.left, again.cost) == (run.values, run.left, run.cost)
        run.trim()
        costs.append(run.cost)
        while (value := run.take()) is not NOTHING:
            given.append(value)
    assert given == list(range(10))
    assert [items for items, _ in costs] == [1, 4, 3, 2]
    assert sum(nbytes for _, nbytes in costs) == 103
    assert run.left == 0
    assert (Run().take(), Run().cost, Run().left) == (NOTHING, FREE, 0)


def test_a_value_that_was_taken_is_kept_by_nobody_else() -> None:
    """Large results must not be held until the whole message was taken."""

    class Value:
        pass

    values = [Value() for _ in range(4)]
    first = weakref.ref(values[-1])
    run = Run("message", values, (4, 4)).rest(2)
    run.trim()
    assert len(values) == 2
    run.take()
    gc.collect()
    assert first() is None


def test_the_size_of_blocks_follows_the_consumer() -> None:
    """Small for a slow consumer, so that it is heard of often; large for a quick one, so that it costs nothing."""
    size, sizes, now = BlockSize(), [], 0.0
    for seconds in (2**-20, 2**-20, 2**-20, 2**-20, 2**-8, 2**-8, 2**-8, 1.0, 1.0):
        block = size.begin(now)
        sizes.append(block)
        now += block * seconds
        size.taken(block, now, more=True)
    assert sizes == [1, 4, 16, 64, 256, 12, 12, 12, 1]
    size.begin(now)
    size.taken(1, now, more=False)
    assert size.begin(now) == 1  # the message had no more: that it was quick says nothing
