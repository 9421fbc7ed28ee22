"""Known items are left out of what is read, and delivered at once."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from distmap.calls.inputs import from_iterables
from distmap.calls.recall import AGAIN, LATER, Bounds, Recall
from distmap.checkpoint.keys import Keyer
from distmap.checkpoint.known import Known
from distmap.checkpoint.reader import ReportReader
from distmap.checkpoint.sections import Behaviour
from distmap.checkpoint.store import ChunkRow, ReportRow, close_store, open_store
from distmap.tasks.fingerprint import changes
from distmap.tasks.items import Items, dump_items

BEHAVIOUR = Behaviour("f", "one", b"1", {}, {})


@pytest.fixture
def store(tmp_path):
    found = open_store(str(tmp_path / "x.sqlite"))
    yield found
    close_store(found)


def fill(store, items, first=0):
    """Items that are known from one report; the result of an item is itself."""
    function = store.section(BEHAVIOUR, "error", changes).function
    row = ChunkRow(function, first, len(items), Keyer().chunk(items))
    store.write([ReportRow(row, 0, len(items), dump_items(items)[0].parts, "", [(0, len(items))])])


def recall(store, data, **options):
    """A recall over the data, and the list of what it delivers."""
    keyer = Keyer()
    known = Known(store, store.section(BEHAVIOUR, "error", changes), keyer, "keep")
    found = []
    reader = Recall(
        from_iterables((data,)),
        known,
        keyer,
        ReportReader(store.path),
        found.append,
        lambda count: None,
        Bounds(**options),
    )
    return reader, found


def read_all(reader, most):
    """(start, items) of each chunk, to the end of the input."""
    chunks = []
    while True:
        found = reader.read(most)
        if found == AGAIN:
            continue
        assert found != LATER
        if found.count:
            opened = Items([*found.payload.parts])
            items = [opened.load(at) for at in range(opened.count)] if opened.whole is None else list(opened.whole)
            chunks.append((found.start, items))
            assert found.keys == Keyer().chunk(items)
        if found.last:
            return chunks


def values_of(message):
    return message.start, message.reader.values(message.report, message.at, message.count)[0]


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_chunks_are_neighbours_with_their_own_index(store, kind):
    """A known item ends a chunk; each chunk begins at its index in the input."""
    fill(store, ["a", "b"])
    fill(store, ["e"], first=4)
    reader, known = recall(store, kind(list("abcdefghi")))
    assert read_all(reader, 3) == [(2, ["c", "d"]), (5, ["f", "g", "h"]), (8, ["i"])]
    assert [values_of(message) for message in known] == [(0, ["a", "b"]), (4, ["e"])]


def test_nothing_known_is_read_as_it_is(store):
    """Without results the chunks are those of the input, in any form."""
    reader, known = recall(store, range(5))
    assert read_all(reader, 2) == [(0, [0, 1]), (2, [2, 3]), (4, [4])]
    reader, known = recall(store, np.arange(4))
    assert read_all(reader, 10) == [(0, [0, 1, 2, 3])]
    assert known == []


def test_objects_of_an_iterator_are_pickled_as_they_come(store):
    """An iterator that changes what it gave is read like a list of copies."""

    def lists():
        item = []
        for at in range(5):
            item.append(at)
            yield item

    fill(store, [[0], [0, 1]])
    reader, known = recall(store, lists())
    chunks = read_all(reader, 10)
    assert chunks[0][0] == 2
    assert [item for _, items in chunks for item in items] == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert [at for message in known for at in values_of(message)[1]] == [[0], [0, 1]]


def test_what_came_before_an_error_of_the_input_counts(store):
    """Items that an iterator gave before it raised are read; then the error is raised."""

    def numbers():
        yield from (1, 2)
        raise OSError("gone")

    reader, _ = recall(store, numbers())
    first = reader.read(10)
    assert (first.start, first.count, first.last) == (0, 2, False)
    with pytest.raises(OSError, match="gone"):
        reader.read(10)


def test_an_iterator_that_waits_for_results_gets_them(store):
    """With `chunksize=1` no item is asked for before those before it were handed on, known ones too."""
    fill(store, ["a", "b", "c"])
    asked = []

    def letters():
        for letter in "abcd":
            asked.append(letter)
            yield letter

    reader, known = recall(store, letters(), look=1)
    known_when_asked = []
    deliver = reader._deliver

    def delivered(message):
        deliver(message)
        known_when_asked.append((len(known), len(asked)))

    reader._deliver = delivered
    assert read_all(reader, 1) == [(3, ["d"])]
    assert known_when_asked == [(1, 1), (2, 2), (3, 3)]


def test_known_items_wait_for_their_consumer(store):
    """At most so many known items are delivered ahead; when some were taken the request is made again."""
    fill(store, list("abcdef"))
    reader, known = recall(store, list("abcdefgh"), ahead=4)
    assert reader.read(9) == LATER
    assert sum(message.count for message in known) == 4
    again = threading.Event()
    reader.wait(again.set)
    assert not again.is_set()
    reader.consumed(1, known=True)
    assert again.is_set()
    assert reader.read(9) == LATER
    reader.open_wide()
    chunk = reader.read(9)
    assert (chunk.start, chunk.count, chunk.last) == (6, 2, True)
    assert sum(message.count for message in known) == 6


def test_a_buffer_counts_known_and_unknown_items(store):
    """`buffer=` bounds both together."""
    fill(store, ["a"])
    reader, _ = recall(store, list("abcd"), room=2, ahead=100)
    chunk = reader.read(9)
    assert (chunk.start, chunk.count) == (1, 1)
    assert reader.read(9) == LATER
    woken = threading.Event()
    reader.consumed(1, known=True)
    reader.wait(woken.set)
    assert woken.is_set(), "there was room meanwhile"
    assert reader.read(9).start == 2
