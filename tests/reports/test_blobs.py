"""Broadcast values and what chunks bring along: they always load, and they go with the chunk that brought them."""

from __future__ import annotations

import threading

import pytest


class Wraps:
    """Reads the value of another broadcast while it is unpickled."""

    def __init__(self, handle):
        self.handle = handle

    def __getstate__(self):
        return self.handle

    def __setstate__(self, handle):
        self.handle = handle
        self.seen = handle.value


def nested(pool):
    """A value whose unpickling reads another broadcast."""
    outer = pool.broadcast(Wraps(pool.broadcast(41)))
    return lambda x: outer.value.seen + x


def mutual(pool):
    """Two values that hold each other's handle."""
    first, second = [1], [2]
    one, two = pool.broadcast(first), pool.broadcast(second)
    first.append(two)
    second.append(one)
    return lambda x: (one.value[1].value[1].value is one.value, two.value[0] + x)


def mutual_from_the_far_end(pool):
    """The same, and only the second is mentioned by the function, after the first was pickled."""
    first, second = [1], [2]
    one, two = pool.broadcast(first), pool.broadcast(second)
    first.append(two)
    second.append(one)
    assert pool.map(lambda x: one.value[0], [0]) == [1]
    return lambda x: two.value[1].value[0] + x


def itself(pool):
    """A value that holds its own handle."""
    value = [5]
    handle = pool.broadcast(value)
    value.append(handle)
    return lambda x: handle.value[1].value[0] + x


def two_threads(pool):
    """Two threads of one task read two broadcasts that each read the other's inner one."""
    inner = [pool.broadcast(number) for number in (1, 2)]
    outer = [pool.broadcast([Wraps(one), Wraps(two)]) for one, two in (inner, inner[::-1])]

    def fn(x):
        found, gate = [], threading.Barrier(2)

        def read(handle):
            gate.wait(5)
            found.append(sum(one.seen for one in handle.value))

        threads = [threading.Thread(target=read, args=(handle,)) for handle in outer]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        return (sum(found) + x, outer[0].value is outer[0].value)

    return fn


@pytest.mark.parametrize(
    ("make", "right"),
    [
        pytest.param(nested, 42, id="value-within-value"),
        pytest.param(mutual, (True, 3), id="two-that-refer-to-each-other"),
        pytest.param(mutual_from_the_far_end, 2, id="two-that-refer-to-each-other-by-the-second"),
        pytest.param(itself, 6, id="one-that-refers-to-itself"),
        pytest.param(two_threads, (7, True), id="two-threads-of-a-task"),
    ],
)
def test_a_broadcast_loads_whatever_it_refers_to(pool, make, right):
    """Values that mention or read other broadcasts load in every slot, and nobody waits for ever."""
    assert pool.map(make(pool), [1], timeout=8) == [right]


def test_a_value_that_needs_itself_to_load_says_so(pool):
    """Two values that read each other while they are unpickled cannot load: the item says why."""
    one, two = Wraps.__new__(Wraps), Wraps.__new__(Wraps)
    first, second = pool.broadcast(one), pool.broadcast(two)
    one.handle, two.handle = second, first
    with pytest.raises(Exception, match=r"is being loaded just now.*refers back to it"):
        pool.map(lambda x: first.value, [1], timeout=8)
