"""Tests of distmap.tasks.payload: chunks of items and results as bytes, and back."""

from __future__ import annotations

import dataclasses
import datetime
import threading
from typing import Any

import numpy as np
import pytest

from distmap.errors import PayloadError
from distmap.tasks.broadcast import Broadcast, Dependencies
from distmap.tasks.failures import Failure, revive
from distmap.tasks.items import Folded, Items, dump_item, dump_items, encode, fold, is_plain, join_items, load_results
from distmap.tasks.payload import Payload


@dataclasses.dataclass
class Local:
    x: int


def sent(payload: Payload) -> list[Any]:
    """The parts as they arrive: memory of the receiver, writable."""
    return [bytearray(part) for part in payload.parts]


def chunk(items: Any) -> Items:
    return Items(sent(dump_items(items)[0]))


def values(items: Items) -> list[Any]:
    return [items.load(at) for at in range(items.count)] if items.whole is None else list(items.whole)


def explode() -> None:
    raise OSError("boom")


class Bomb:
    """Pickles, but does not unpickle."""

    def __reduce__(self) -> Any:
        return explode, ()


@pytest.mark.parametrize(
    "items",
    [
        [],
        [1, 2, 3],
        (1.5, "two", None, True, b"3", 4j),
        [(1, "a"), (2, "b")],
        [(1, 2), 3, ()],
        range(5, 50, 3),
        [10**400],
    ],
)
def test_scalars_are_one_pickle(items: Any) -> None:
    """A chunk of scalars, or of tuples of them, is one pickle, and comes back with its types."""
    opened = chunk(items)
    assert opened.whole is not None
    assert opened.count == len(items)
    assert [(type(x), x) for x in values(opened)] == [(type(x), x) for x in items]


@pytest.mark.parametrize(
    "items",
    [
        [{"a": 1}, [2], {3}],
        [((1, 2), 3)],
        [1, datetime.date(2020, 1, 2)],
        [Local(1), Local(2)],
        [len, Local],
        [True, [None]],
    ],
)
def test_other_items_are_a_pickle_each(items: Any) -> None:
    """Items of other types are pickled one by one and opened one by one."""
    opened = chunk(items)
    assert opened.whole is None
    assert values(opened) == items
    assert opened.load(len(items) - 1) == items[-1]


def test_records_are_one_pickle_and_are_opened_again() -> None:
    """A chunk of records is one pickle; what was done to an item does not show in what is opened again."""
    records = [{"a": 1, "b": "x"}, {"a": 2}]
    opened = chunk(records)
    assert opened.whole == records
    del opened.whole[0]["a"]
    assert [opened.load_again(at) for at in range(2)] == records
    assert chunk([{"a": [1]}]).load_again(0) == {"a": [1]}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(20_000.0).reshape(1000, 20),
        np.arange(12)[::-2],
        np.asfortranarray(np.arange(20_000.0).reshape(100, 200)),
        np.zeros((0, 3)),
        np.array([(1, 2.5)], dtype=[("i", "i4"), ("f", "f8")]),
        np.array(["2026-01-01"], dtype="datetime64[D]"),
    ],
)
def test_an_array_is_one_buffer_iterated_by_its_first_axis(array: np.ndarray[Any, Any]) -> None:
    """An array travels as it is; its items are what iterating it gives."""
    payload, blobs = dump_items(array)
    opened = Items(sent(payload))
    assert not blobs
    assert len(payload.buffers) == (1 if array.nbytes > 32_768 else 0)
    assert type(opened.whole) is np.ndarray
    np.testing.assert_array_equal(opened.whole, array)
    assert opened.whole.flags.writeable


@pytest.mark.parametrize(
    "array", [np.array([1, "x", None], dtype=object), np.ma.masked_array([1, 2], mask=[0, 1])], ids=["object", "masked"]
)
def test_arrays_of_other_kinds_are_lists_of_their_items(array: Any) -> None:
    """Arrays of objects and subclasses of arrays give the items that `for` gives."""
    assert [str(x) for x in values(chunk(array))] == [str(x) for x in array]


def test_numpy_numbers_and_small_arrays_are_stacked() -> None:
    """NumPy numbers of one type, and small arrays of one kind, travel as one array and come back as what they were."""
    numbers = [np.float32(x) for x in range(10)]
    rows = [np.full((2, 3), x) for x in range(10)]
    for items in (numbers, rows):
        payload, failed = encode(items, Dependencies(), what="")
        assert not failed
        got = load_results(sent(payload), 0, 10)
        assert [type(x) for x in got] == [type(x) for x in items]
        np.testing.assert_array_equal(np.array(got), np.array(items))
    got[0][0, 0] = 7
    assert chunk([np.zeros(3), np.zeros(4)]).whole is None
    assert chunk([np.zeros(3), np.zeros(3, int)]).whole is None
    assert chunk([np.zeros(()), np.zeros(())]).whole is None
    assert chunk([np.float32(1), np.float64(1)]).whole is None


def test_one_memory_block_travels_once() -> None:
    """An array that several items share is one buffer of their chunk."""
    big = np.arange(50_000)
    payload, _ = dump_items([(big, n) for n in range(10)])
    assert len(payload.buffers) == 1
    assert payload.nbytes < big.nbytes + 5000
    got = values(Items(sent(payload)))
    assert [n for _, n in got] == list(range(10))
    assert (got[9][0] == big).all()


def test_the_class_of_many_items_travels_once() -> None:
    """Instances of a class without importable name do not repeat its definition."""

    class Inner:
        def __init__(self, x: int) -> None:
            self.x = x

    one, many = (dump_items([Inner(x) for x in range(n)])[0].nbytes for n in (1, 1000))
    assert many < one + 1000 * 100
    got = values(chunk([Inner(x) for x in range(3)]))
    assert [(type(item), item.x) for item in got] == [(Inner, 0), (Inner, 1), (Inner, 2)]


def test_a_class_that_does_not_pickle_costs_its_instances_only() -> None:
    """Where a class of the chunk cannot travel, the other items still do."""

    class Locked:
        lock = threading.Lock()

    for items in ([{"a": 1}, Locked(), [2]], iter([{"a": 1}, Locked(), [2]])):
        got = values(chunk(items))
        assert [got[0], got[2]] == [{"a": 1}, [2]]
        assert isinstance(got[1], Failure)
        assert "lock" in got[1].message


@pytest.mark.parametrize("size", [3, 20_000])
def test_what_an_iterator_changes_is_taken_before(size: int) -> None:
    """Arrays are copied, and other items pickled, before the next one is asked for; arrays alone are stacked."""

    def rows(last: Any) -> Any:
        buffer = np.zeros(size)
        for buffer[:] in range(3):
            yield buffer
        yield from last
        buffer[:] = 9
        yield buffer

    for last in ([], [{"a": 1}]):
        opened = chunk(rows(last))
        got = [item[0] if isinstance(item, np.ndarray) else item for item in values(opened)]
        assert got == [0, 1, 2, *last, 9]
        assert (opened.whole is not None) == (size == 3 and not last)


def test_an_item_that_does_not_pickle_travels_as_its_failure() -> None:
    """The failure stands in the item's place, names it, and the others are unharmed."""
    got = values(chunk([1, threading.Lock(), 3]))
    assert [got[0], got[2]] == [1, 3]
    assert isinstance(got[1], Failure)
    assert got[1].type == "distmap.errors.PayloadError"
    assert got[1].message.startswith("the item cannot be pickled: TypeError")
    assert "lock" in got[1].item
    error = revive(got[1], index=1, worker="w", attempt=1)
    assert isinstance(error, PayloadError)
    assert error.__cause__ is None
    (note,) = error.__notes__
    assert note.startswith("item 1 (<unlocked _thread.lock")
    assert note.endswith(") failed here, before it was sent to a worker")


def test_results_that_do_not_pickle_are_reported() -> None:
    """Encoding says at which offsets a value was replaced by its failure."""
    payload, failed = encode([[0], threading.Lock(), [2], lambda: threading], Dependencies(), what="the result")
    assert failed == [1]
    assert load_results(payload.parts, 0, 4, failed)[2] == [2]


def test_a_result_that_does_not_unpickle_costs_itself_only() -> None:
    """Loading results never raises: a failure made here stands in the place of such a result."""
    payload, failed = encode([[1], Bomb(), [3]], Dependencies(), what="the result")
    assert failed == []
    got = load_results(sent(payload), 0, 3)
    assert [got[0], got[2]] == [[1], [3]]
    assert isinstance(got[1], Failure)
    assert got[1].message == "the result arrived but cannot be unpickled here: OSError: boom"


def test_classes_that_do_not_unpickle_cost_their_instances_only() -> None:
    """The same when it is the definition of a class that fails to load."""

    class Broken:
        trap = Bomb()

    got = load_results(sent(dump_items([[1], Broken(), [3]])[0]), 0, 3)
    assert [isinstance(value, Failure) for value in got][1]


def test_folded_results() -> None:
    """A folded report gives one marked value, then its failures."""
    failure = values(chunk([threading.Lock()]))[0]
    payload = fold(encode([np.zeros(10_000), failure], Dependencies(), what="")[0])
    folded, failed = load_results(sent(payload), 0, 9, (4,))
    assert isinstance(folded, Folded)
    assert (folded.value == 0).all()  # type: ignore[attr-defined]
    assert isinstance(failed, Failure)
    assert load_results(sent(fold(encode([7], Dependencies(), what="")[0])), 0, 3) == [Folded(7)]
    assert load_results(sent(fold(encode([failure], Dependencies(), what="")[0])), 0, 1, (0,)) == [failure]
    assert load_results(sent(fold(encode([], Dependencies(), what="")[0])), 0, 0) == []


def test_single_items_are_joined_into_a_chunk() -> None:
    """Items pickled one by one, as `submit` does, make a chunk like any other."""
    big = np.arange(20_000)
    handle = Broadcast([5])
    given = [((1,), {}), ((big, "a"), {"k": big}), ((handle,), {}), ((threading.Lock(),), {}), ((), {})]
    payload, blobs = join_items([dump_item(item) for item in given])
    assert [blob.digest for blob in blobs] == [handle.digest]
    got = values(Items(sent(payload)))
    assert got[0] == ((1,), {})
    assert (got[1][0][0] == big).all()
    assert (got[1][1]["k"] == big).all()
    assert got[2][0][0].value == [5]
    assert isinstance(got[3], Failure)
    assert got[4] == ((), {})
    assert Items(sent(join_items([])[0])).count == 0
    handle.release()


def test_blobs_of_items() -> None:
    """Broadcast handles in items name what must be sent before."""
    handle = Broadcast("value")
    _, blobs = dump_items([{"h": handle}, [handle]])
    assert [(blob.digest, blob.kind) for blob in blobs] == [(handle.digest, "value")]
    handle.release()


@pytest.mark.parametrize(("results", "plain"), [([1, "a"], True), ([], True), ([1, {}], False), (np.arange(3), True)])
def test_plain_results_are_known_as_such(results: Any, plain: bool) -> None:
    """Where no result can be a Failure nobody looks for one; a folded report is looked into."""
    payload, _ = encode(results, Dependencies(), what="the result")
    assert is_plain(payload.parts) is plain
    assert not is_plain(fold(payload).parts)
