"""Jobs are made whole, and the pool remembers them."""

from __future__ import annotations

import threading

import pytest
from support.waiting import until

import distmap
from distmap.tasks import codecache

#: The shared pool lives longer than a test.
pytestmark = pytest.mark.own_leaks


def test_a_job_is_named_after_its_function(pool2):
    """Without `desc=` the name is the function's."""
    job = pool2.map_async(abs, [1])
    assert "abs" in job.name
    job.result(10)


def test_a_list_changed_after_the_call(pool2, gate):
    """A list that is changed after `map_async` does not change the job."""
    data = list(range(1000))
    job = pool2.map_async(abs, data)
    data[:] = [0] * 1000
    assert job.result(10) == list(range(1000))


def test_jobs_in_the_order_of_their_beginning(pool2, gate):
    """`pool.jobs` lists what runs; each has its number and the name of its call."""
    jobs = [pool2.map_async(gate.wait, [n]) for n in range(3)]
    stream = pool2.imap_unordered(abs, iter([1]), desc="mine")
    assert pool2.jobs[:3] == jobs
    assert [job.id for job in jobs] == sorted(job.id for job in jobs)
    assert (jobs[0].call, stream.call, stream.name) == ("map", "imap_unordered", "mine")
    gate.open()
    for job in jobs:
        job.result(10)
    assert list(stream) == [1]
    assert pool2.jobs == []


def reads(pool):
    """How many reads of input the loop asked for, so far."""
    return sum(type(command).__name__ == "Read" for _, _, commands in pool.trace() for command in commands)


def test_the_first_chunk_comes_with_the_job(pool2):
    """One item of a list of objects needs no read; of an iterator, which may wait, it does."""
    before = reads(pool2)
    assert pool2.map(len, [[-1]]) == [1]
    assert pool2.map(len, [[-1], [], []], chunksize=5) == [1, 0, 0]
    assert reads(pool2) == before
    assert pool2.map(abs, iter([-1])) == [1]
    assert reads(pool2) > before


def test_plain_items_are_read_while_the_caller_is_busy(pool2):
    """The loop reads them itself, so slots go on while a reducer takes its time."""

    def add(total, value):
        (job,) = pool2.jobs
        until(lambda: job.progress.done == 8)
        return total + value

    assert pool2.map_reduce(abs, [-1] * 8, add, initial=0, chunksize=1) == 8


def test_a_list_that_is_not_plain_throughout(pool2):
    """The loop reads as far as it is, then the caller goes on; each item is run once and in order."""
    data = [*range(50), [50], *range(51, 99), "x" * 2_000_000, *range(100)]
    assert pool2.map(str, data) == list(map(str, data))
    assert pool2.map(str, data, chunksize=7) == list(map(str, data))
    assert list(pool2.imap(str, data)) == list(map(str, data))


def test_a_function_is_pickled_once_for_many_calls(pool2, monkeypatch):
    """As long as nothing that it reaches has changed, whatever the call."""
    built = []
    build = codecache.build
    monkeypatch.setattr(
        codecache, "build", lambda content, *rest, **kinds: (built.append(content), build(content, *rest, **kinds))[1]
    )
    k = 1

    def plus(x):
        return x + k

    assert [pool2.map(plus, [n]) for n in range(3)] == [[1], [2], [3]]
    assert list(pool2.imap(plus, [3])) == [4]
    assert len(built) == 1
    k = 10
    assert pool2.map(plus, [1]) == [11]
    assert len(built) == 2


def test_a_first_item_that_does_not_pickle_fails_like_any_other(pool2):
    """Its error names the item; the others are there."""
    lock = threading.Lock()
    with pytest.raises(distmap.PayloadError, match="pickled"):
        pool2.map(repr, [lock, 1])
    results = pool2.map(repr, [lock, 1], on_error="return")
    assert isinstance(results[0], distmap.PayloadError)
    assert results[1] == "1"


def test_an_interrupt_while_the_first_chunk_is_read_leaves_the_pool_usable(pool2):
    """No job was begun, so nothing is waited for."""

    class Interrupting:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool2.map(repr, [Interrupting()])
    assert pool2.jobs == []
    assert pool2.map(abs, [-1]) == [1]
