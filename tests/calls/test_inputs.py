"""Inputs are cut lazily, in order, without copies where none are needed."""

from __future__ import annotations

import itertools
from collections import deque

import numpy as np
import pandas as pd
import pytest

from distmap.calls.inputs import Pulled, from_batches, from_iterables
from distmap.core.limits import LIMITS
from distmap.tasks.items import load_results


def drain(source, count=3):
    """Read everything, `count` at a time."""
    items = []
    while True:
        some, _, last = source.read(count)
        items.extend(some)
        if last:
            return items


@pytest.mark.parametrize("data", [[1, 2, 3, 4], (1, 2, 3, 4), range(1, 5), {1: "a", 2: "b", 3: "c", 4: "d"}])
def test_sized_inputs_know_their_size(data):
    """Anything with a length has a known size and gives its items in order."""
    source = from_iterables([data])
    assert source.size == 4
    assert drain(source) == [1, 2, 3, 4]


@pytest.mark.parametrize("data", [[], (), range(0), "", iter(())])
def test_empty_inputs_end_at_once(data):
    """An empty input is exhausted by its first read."""
    source = from_iterables([data])
    items, _, last = source.read(5)
    assert list(items) == []
    assert last


def test_an_infinite_generator_is_read_only_as_far_as_asked():
    """Nothing is pulled beyond the count."""
    pulled = []

    def endless():
        for number in itertools.count():
            pulled.append(number)
            yield number

    source = from_iterables([endless()])
    assert source.size is None
    assert source.read(4) == ([0, 1, 2, 3], 4, False)
    assert pulled == [0, 1, 2, 3]


def test_an_array_is_cut_into_views():
    """Slices of an array share its memory."""
    data = np.arange(12).reshape(6, 2)
    source = from_iterables([data])
    items, _, last = source.read(4, lambda items: items)
    assert np.shares_memory(items, data)
    assert items.shape == (4, 2)
    assert not last


def test_several_iterables_are_zipped_to_the_shortest():
    """As the built-in map: tuples, as many as the shortest has."""
    source = from_iterables([[1, 2, 3], "ab"])
    assert source.size == 2
    assert drain(source) == [(1, "a"), (2, "b")]
    assert from_iterables([[1, 2], iter("ab")]).size is None


def test_a_list_can_be_snapshot():
    """A background job is not affected by later changes of the list."""
    data = [1, 2, 3]
    source = from_iterables([data], snapshot=True)
    data.clear()
    assert drain(source) == [1, 2, 3]


def test_what_is_not_iterable_is_named():
    """The error says which argument and of what type."""
    with pytest.raises(TypeError, match=r"argument 2 .* int"):
        from_iterables([[1], 5])


@pytest.mark.parametrize(("length", "size"), [(10, 10), (1, 1), (0, None), (-1, None), (10**30, None), ("two", None)])
def test_a_length_is_a_hint(length, size):
    """What iterating gives are the items, whatever the length says; one that is no length is none."""

    class Liar:
        def __len__(self):
            return length

        def __iter__(self):
            return iter([1, 2])

    source = from_iterables([Liar()])
    assert source.size == size
    assert drain(source) == [1, 2]


def test_a_list_that_changes_while_it_is_read():
    """It gives what its iterator would."""
    data = [1, 2, 3, 4]
    source = from_iterables([data])
    assert source.read(2) == ([1, 2], 2, False)
    del data[2:]
    assert source.read(2) == ([], 0, True)


@pytest.mark.parametrize("data", [[1, "a", None, 2.5], (b"a", 1j), range(5), [(1, "a"), 2, ()]])
def test_plain_items_can_be_read_by_the_loop(data):
    """Numbers, short text and tuples of such: pickling them runs no code of the user's."""
    source = from_iterables([data])
    assert source.plain
    read = source.read_plain(2)
    assert (load_results(read.payload.parts, 0, 2), read.count, read.last) == (list(data[:2]), 2, len(data) == 2)
    if not read.last:
        assert source.read(9) == (list(data[2:]), len(data) - 2, True)  # whoever reads next goes on behind them


@pytest.mark.parametrize("other", [[], (1, []), object(), True + np.int64(1), "x" * (LIMITS.loop_read_bytes + 1)])
def test_other_items_are_left_to_whoever_may_run_the_users_code(other):
    """They are still to be read; the loop does not look at what follows."""
    assert not from_iterables([[other, 1]]).plain
    source = from_iterables([[1, other, 2]])
    assert source.plain
    assert source.read_plain(2) is None
    assert source.read_plain(1) is None
    assert source.read(2) == ([1, other], 2, False)


def test_the_loop_reads_no_more_than_it_has_time_for():
    """A large chunk is read by whoever serves the job; one of a range is two numbers."""
    source = from_iterables([[1] * 10**5])
    assert source.read_plain(LIMITS.loop_read_items + 1) is None
    assert source.read_plain(3).count == 3
    assert from_iterables([range(10**6)]).read_plain(10**6).count == 10**6


def test_a_subclass_of_an_array_is_iterated_over():
    """Its slices may be something else than what it gives."""
    masked = np.ma.array([1, 2, 3], mask=[0, 1, 0])
    assert [str(x) for x in drain(from_iterables([masked]))] == ["1", "--", "3"]


def test_batches_of_a_list_array_and_frame_are_slices():
    """map_batches cuts rows: list slices, array views, frames of rows."""
    assert drain(from_batches([1, 2, 3, 4, 5], 2, 1)[0]) == [[1, 2], [3, 4], [5]]
    data = np.arange(10)
    batches = drain(from_batches(data, 4, 1)[0], count=1)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert np.shares_memory(batches[0], data)
    frame = pd.DataFrame({"a": range(5)})
    frames = drain(from_batches(frame, 2, 1)[0])
    assert [list(one["a"]) for one in frames] == [[0, 1], [2, 3], [4]]


def test_the_default_batch_gives_four_a_slot():
    """Without a size there are four batches for each slot."""
    assert from_batches(list(range(80)), None, 2)[0].size == 8


def test_batches_of_what_has_no_rows():
    """Any other iterable gives lists of items as they come; of known length four for each slot."""
    assert drain(from_batches(iter(range(5)), 2, 1)[0]) == [[0, 1], [2, 3], [4]]
    assert drain(from_batches(deque(range(5)), 2, 1)[0]) == [[0, 1], [2, 3], [4]]
    assert from_batches(deque(range(80)), None, 2)[0].size == 8
    with pytest.raises(TypeError, match=r"cannot cut a int, nor iterate over it\. It cuts a list"):
        from_batches(5, None, 1)


def test_what_an_iterator_may_change_is_taken_one_by_one():
    """An item is handed over before the next one is asked for; plain values may be read ahead."""

    def rows():
        row = [0]
        for row[0] in range(4):
            yield row

    source = from_iterables([rows()])
    first = source.read(3, lambda items: [list(item) for item in items])
    assert first == ([[0], [1], [2]], 3, False)
    assert source.read(3, lambda items: [list(item) for item in items]) == ([[3]], 1, True)
    assert from_iterables([iter([1, 2, [3], [4]])]).read(9) == ([1, 2, [3], [4]], 4, True)
    source = from_iterables([itertools.chain(range(9), rows())])
    assert source.read(11, lambda items: [str(item) for item in items]) == ([*"012345678", "[0]", "[1]"], 11, False)
    assert source.read(9, lambda items: [str(item) for item in items]) == (["[2]", "[3]"], 2, True)


HEAVY = b"x" * (1 << 20)


@pytest.mark.parametrize("heavy", [HEAVY, HEAVY.decode(), (7, HEAVY)], ids=["bytes", "text", "pair"])
def test_a_read_ends_where_its_items_become_heavy(heavy):
    """What was read before says nothing of the size of the next items: memory is bounded all the same."""
    source = Pulled(itertools.chain([b""] * 1000, itertools.repeat(heavy)))
    read = 0
    while read < 1000:
        items, count, last = source.read(1_000_000)
        assert len(items) == count
        assert not last
        read += count
    assert read <= 1000 + LIMITS.chunk_bytes // (1 << 20)
    assert source.read(1_000_000)[1] == LIMITS.chunk_bytes // (1 << 20)
