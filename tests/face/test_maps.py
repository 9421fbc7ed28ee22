"""Every map-like call gives the right results, in the right order, and reads its input no further than it must."""

from __future__ import annotations

import itertools
import operator
import time

import pytest

import distmap

#: The shared pool lives longer than a test; its fixture checks what it leaves.
pytestmark = pytest.mark.own_leaks


def test_map_gives_a_list_in_input_order(pool2):
    """`map` gives a list, in input order."""
    assert pool2.map(lambda x: x * x, range(1000)) == [x * x for x in range(1000)]


def test_map_takes_several_iterables(pool2):
    """`map` over several iterables passes one of each and stops at the shortest, as the built-in."""
    assert pool2.map(operator.sub, [10, 20, 30], (1, 2)) == [9, 18]


@pytest.mark.parametrize("data", [[], (), range(0), iter(()), {}, ""], ids=lambda data: type(data).__name__)
def test_map_over_nothing(pool2, data):
    """An empty input of any kind gives an empty list."""
    assert pool2.map(abs, data) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: [3, 1, 2],
        lambda: (3, 1, 2),
        lambda: range(40),
        lambda: (x for x in range(40)),
        lambda: {"a": 1, "b": 2},
        lambda: {"a": 1, "b": 2}.items(),
        lambda: "text",
        lambda: b"bytes",
        lambda: [None, True, 1.5, "s", b"b", (1, "x"), [1], {"k": [2]}, {1, 2}, 1 << 80],
    ],
)
def test_map_iterates_whatever_iterates(pool2, make):
    """Lists, tuples, ranges, generators, dicts, views, strings and bytes are iterated as `for` does."""
    assert pool2.map(lambda x: x, make()) == list(make())


def test_a_global_of_the_notebook_begins_anew_at_each_call(pool2):
    """What a function of the notebook sets by `global` ends with the call, however soon the next one follows."""
    cell = {"__name__": "__main__", "n": 0}
    exec("def count(x):\n    global n\n    n += 1\n    return n", cell)
    for _ in range(3):
        assert pool2.map(cell["count"], [1], chunksize=1) == [1]


@pytest.mark.parametrize("chunksize", [1, 7, 100, 1000])
def test_chunksize_changes_nothing_but_speed(pool2, chunksize):
    """A fixed chunksize gives the same results."""
    assert pool2.map(lambda x: -x, range(300), chunksize=chunksize) == [-x for x in range(300)]


def test_starmap_spreads_each_tuple(pool2):
    """`starmap` calls fn(*item)."""
    assert pool2.starmap(pow, [(2, 5), (3, 2), (10, 3)]) == [32, 9, 1000]


def test_imap_gives_results_in_order_while_they_come(pool2):
    """`imap` is an iterator in input order."""
    results = pool2.imap(lambda x: x + 1, range(100))
    assert iter(results) is results
    assert next(results) == 1
    assert list(results) == list(range(2, 101))


def test_imap_takes_several_iterables(pool2):
    """`imap` and `imap_unordered` take several iterables as `map` does."""
    assert list(pool2.imap(operator.add, [1, 2], [10, 20])) == [11, 22]
    assert sorted(pool2.imap_unordered(operator.add, [1, 2], [10, 20])) == [11, 22]


def test_imap_of_an_infinite_generator_reads_only_what_is_needed(pool2):
    """Ten results of an endless input pull little more than ten items; leaving the iterator frees the pool."""
    pulled = []

    def endless():
        for x in itertools.count():
            pulled.append(x)
            yield x

    results = pool2.imap(lambda x: 2 * x, endless(), chunksize=1)
    assert list(itertools.islice(results, 10)) == list(range(0, 20, 2))
    # Two chunks of one item for each of two slots, and one chunk's grace for the one being handed over.
    assert len(pulled) <= 10 + 2 * 2 + 2
    del results
    assert pool2.map(abs, [-1]) == [1]


def test_imap_of_an_infinite_generator_with_chunks_that_size_themselves(pool2):
    """With the default call an endless input works as well."""
    assert list(itertools.islice(pool2.imap(abs, itertools.count()), 1000)) == list(range(1000))


def test_imap_buffer_bounds_what_is_ahead_of_the_consumer(pool2):
    """`buffer=` bounds the items that are read and not yet consumed."""
    pulled = []

    def source():
        for x in range(500):
            pulled.append(x)
            yield x

    ahead = 0
    for consumed, _ in enumerate(pool2.imap(abs, source(), buffer=5), 1):
        ahead = max(ahead, len(pulled) - consumed)
    assert len(pulled) == 500
    assert ahead <= 6


def test_imap_unordered_does_not_wait_for_a_slow_first_item(pool2, gate):
    """`imap_unordered` hands over what is finished while the first item still runs."""
    wait = gate.wait
    results = pool2.imap_unordered(lambda x: wait(x) if x == 0 else x, range(20), chunksize=1)
    early = list(itertools.islice(results, 3))
    assert 0 not in early
    gate.open()
    assert sorted([*early, *results]) == list(range(20))


def test_map_reduce_folds_in_input_order(pool2):
    """`map_reduce` gives what functools.reduce over the mapped input gives; the reducer need not commute."""
    expected = "".join(map(str, range(500)))
    assert pool2.map_reduce(str, range(500), operator.add) == expected
    assert pool2.map_reduce(str, range(500), operator.add, initial=">") == ">" + expected


def test_map_reduce_with_combine_folds_on_the_worker_too(pool2):
    """`combine` folds runs of neighbours where they were computed, still in input order."""
    expected = "".join(map(str, range(500)))
    assert pool2.map_reduce(str, range(500), operator.add, combine=operator.add) == expected
    total = pool2.map_reduce(lambda x: x * x, range(10_000), operator.add, initial=0, combine=operator.add)
    assert total == sum(x * x for x in range(10_000))


def test_map_reduce_runs_the_reducer_here(pool2):
    """The reducer runs in this process, so it may change this process's objects."""
    seen = []

    def keep(total, x):
        seen.append(x)
        return total + x

    assert pool2.map_reduce(abs, range(50), keep, initial=0) == sum(range(50))
    assert seen == list(range(50))


def test_map_reduce_over_nothing(pool2):
    """An empty input gives `initial`; without one it raises TypeError, as functools.reduce."""
    assert pool2.map_reduce(abs, [], operator.add, initial=7) == 7
    with pytest.raises(TypeError):
        pool2.map_reduce(abs, [], operator.add)


def test_map_reduce_takes_none_as_initial(pool2):
    """`initial=None` is a value like any other."""
    assert pool2.map_reduce(abs, [-1, -2], lambda total, x: [*(total or []), x], initial=None) == [1, 2]


@pytest.mark.parametrize("batch_size", [None, 1, 7, 1000])
def test_map_batches_of_a_list(pool2, batch_size):
    """`map_batches` gives fn slices of a list and joins what it returns, in order."""
    got = pool2.map_batches(lambda part: [2 * x for x in part], list(range(100)), batch_size)
    assert got == [2 * x for x in range(100)]


def test_map_batches_keeps_to_the_batch_size(pool2):
    """Every batch but the last has exactly batch_size rows."""
    assert pool2.map_batches(lambda part: [len(part)], list(range(25)), batch_size=10) == [10, 10, 5]


def test_progress_callable_gets_snapshots(pool2):
    """`progress=callable` gets immutable snapshots; the last one says that all is done."""
    seen: list[distmap.Snapshot] = []
    pool2.map(abs, range(2000), progress=seen.append, desc="squares")
    last = seen[-1]
    assert (last.state, last.done, last.total, last.failed) == ("done", 2000, 2000, 0)
    assert "squares" in last.name
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    with pytest.raises(AttributeError):
        last.done = 0


def test_total_tells_the_length_of_an_input_that_does_not(pool2):
    """`total=` is what snapshots show for a generator."""
    seen: list[distmap.Snapshot] = []
    pool2.map(abs, (x for x in range(50)), total=50, progress=seen.append)
    assert seen[-1].total == 50


def test_progress_false_prints_nothing(pool2, capfd):
    """Nothing is printed with `progress=False`."""
    pool2.map(abs, range(100), progress=False)
    assert capfd.readouterr() == ("", "")


def test_progress_true_shows_a_bar_outside_a_notebook(pool2, capfd):
    """`progress=True` in a terminal shows a bar with the title and the number of items, once a call takes a while."""
    pytest.importorskip("tqdm")
    pool2.map(lambda x: time.sleep(0.015), range(100), progress=True, desc="counting")
    shown = "".join(capfd.readouterr())
    assert "counting" in shown
    assert "100" in shown


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"chunk_size": 3}, TypeError, "chunk_size"),
        ({"chunksize": 0}, ValueError, "chunksize"),
        ({"on_error": "ignore"}, ValueError, "on_error"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"retries": -1}, ValueError, "retries"),
    ],
)
def test_a_wrong_option_is_named(pool2, options, kind, words):
    """An unknown or impossible option raises at once and is named."""
    with pytest.raises(kind, match=words):
        pool2.map(abs, [1], **options)


def test_what_is_not_iterable_is_named(pool2):
    """Data that does not iterate raises TypeError that says so."""
    with pytest.raises(TypeError, match="iterable"):
        pool2.map(abs, object())


def test_what_is_not_callable_is_named(pool2):
    """A function that cannot be called raises TypeError at once."""
    with pytest.raises(TypeError, match=r"function|callable"):
        pool2.map(3, [1])
