"""Broadcast values and what chunks bring along: they always load, and they go with the chunk that brought them."""

from __future__ import annotations

import os
import threading
from importlib.util import find_spec

import numpy as np
import pytest

from distmap.core.events import InputGrew


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


#: Bytes of one value, and how many of them.
EACH, MANY = 4_000_000, 40


def kept(pool):
    """Values that the pool keeps, and their bytes."""
    return pool._portal.ask(lambda: (len(pool._driver.blobs), pool._driver.blobs.nbytes))


def look(handle):
    """Read the value; give its first number, and what this process and its parent hold in memory, in bytes."""
    import psutil

    pids = (os.getpid(), os.getppid())
    return int(handle.value[0]), {pid: psutil.Process(pid).memory_info().rss for pid in pids}


def by_imap(pool):
    """Handles that nobody keeps, as items of a lazy map."""
    handles = (pool.broadcast(np.full(EACH // 8, n)) for n in range(MANY))
    yield from pool.imap(look, handles, chunksize=1, buffer=3)


def by_submit(pool):
    """Handles that are released while further ones are submitted."""
    for n in range(MANY):
        handle = pool.broadcast(np.full(EACH // 8, n))
        yield pool.submit(look, handle).result()
        handle.release()


def by_captured_submit(pool):
    """Functions that capture a handle, which is released while further ones are submitted."""
    for n in range(MANY):
        handle = pool.broadcast(np.full(EACH // 8, n))
        yield pool.submit(lambda: look(handle)).result()
        handle.release()


@pytest.mark.parametrize("way", [by_imap, by_submit, by_captured_submit])
def test_values_go_with_the_chunk_that_brought_them(pool, needs, until, way):
    """However many values pass through one call, the kernel, the workers and the slots hold a few of them at a time."""
    needs(find_spec("psutil") is not None, "psutil")
    import psutil

    least, most, values, counts = {}, {}, [], []
    for value, rss in way(pool):
        values.append(value)
        rss[os.getpid()] = psutil.Process().memory_info().rss
        counts.append(kept(pool)[1])
        for pid, nbytes in rss.items():
            least[pid] = min(least.get(pid, nbytes), nbytes)
            most[pid] = max(most.get(pid, nbytes), nbytes)
    assert values == list(range(MANY))
    assert max(counts) <= 8 * EACH
    assert {pid: most[pid] - least[pid] for pid in most if most[pid] - least[pid] > MANY * EACH / 2} == {}
    until(lambda: kept(pool)[1] < EACH)


@pytest.mark.own_leaks("processes", "descriptors")  # a slot of the shared pool gets another process
def test_an_item_that_is_run_again_still_has_its_value(pool, tmp_path):
    """A retry, and an item whose process died, find the value that came with their chunk, its handle being gone."""
    marks = [str(tmp_path / str(n)) for n in range(3)]

    def fn(item):
        handle, mark, how = item
        if not os.path.exists(mark):
            open(mark, "w").close()
            if how == "raise":
                raise OSError("once")
            if how == "exit":
                os._exit(3)
        return int(handle.value[0]) + len(handle.value)

    ways = zip(range(3), marks, ("raise", "exit", "fine"), strict=True)
    items = ((pool.broadcast(np.full(EACH // 8, n)), mark, how) for n, mark, how in ways)
    assert list(pool.imap(fn, items, chunksize=1, retries=1)) == [EACH // 8 + n for n in range(3)]


def test_the_window_sees_the_bytes_of_values(local_pool):
    """Values whose handles nobody keeps count for the chunk that brought them, so that reading ahead is bounded."""
    handles = (local_pool.broadcast(np.full(EACH // 8, n)) for n in range(6))
    assert list(local_pool.imap(lambda handle: int(handle.value[0]), handles, chunksize=1)) == list(range(6))
    grown = [event for _, event, _ in local_pool.trace() if isinstance(event, InputGrew)]
    assert grown
    assert {event.nbytes >= EACH for event in grown} == {True}


@pytest.mark.own_leaks("threads")  # the shared pool's thread for callbacks
def test_the_bytes_of_submitted_values_count_once(local_pool):
    """A value counts once for its chunk, also where the loop sees the item before it hears of the handle."""
    futures = [local_pool.submit(lambda handle: handle.value[0], local_pool.broadcast(f"{n}" * EACH)) for n in range(9)]
    assert [future.result() for future in futures] == list("012345678")
    grown = [event for _, event, _ in local_pool.trace() if isinstance(event, InputGrew)]
    last = max(event.job for event in grown)
    assert sum(event.nbytes for event in grown if event.job == last) < 10 * EACH


@pytest.mark.own_leaks("threads")  # the shared pool's thread for callbacks
def test_a_released_value_is_gone_while_its_function_is_still_submitted(pool, until):
    """`release()` frees what nothing runs with, and who uses the handle after that is told so."""
    handle = pool.broadcast(np.zeros(EACH // 8))

    def read():
        return handle.value.shape

    assert pool.submit(read).result() == (EACH // 8,)
    assert kept(pool)[1] >= EACH
    handle.release()
    until(lambda: kept(pool)[1] < EACH)
    with pytest.raises(Exception, match="was released"):
        pool.submit(read).result()
