"""Results become lists, folds and concatenations, in input order."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from distmap.calls.results import EMPTY, SKIP, Collect, Fold, Stream, exception_of, results_of
from distmap.driver.messages import Landed, Lost, ReportData
from distmap.errors import ItemTimeout, PoisonItemError, WorkerMemoryError
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.failures import describe
from distmap.tasks.items import dump_items, encode, fold


def test_collect_puts_runs_in_input_order():
    """Runs may land in any order."""
    collect = Collect("raise")
    collect.take(2, 2, ["c", "d"], {})
    assert collect.partial() == [(2, "c"), (3, "d")]
    assert collect.run_at(0) is None
    collect.take(0, 2, ["a", "b"], {})
    assert collect.run_at(0) == (2, ["a", "b"])
    assert collect.result() == ["a", "b", "c", "d"]


@pytest.mark.parametrize(("on_error", "result"), [("return", [0, "error", 2]), ("skip", [0, 2])])
def test_collect_places_or_skips_failures(on_error, result):
    """Failed items are in place or left out, and always in `failures`; partial holds only results."""
    collect = Collect(on_error)
    collect.take(10, 3, [0, SKIP, 2], {11: "error"})
    assert collect.result() == result
    assert collect.failures == {11: "error"}
    assert collect.partial() == [(10, 0), (12, 2)]


def test_fold_without_initial_begins_with_the_first():
    """As functools.reduce."""
    fold = Fold("raise", operator.sub, EMPTY)
    fold.take(0, 2, [10, 1], {})
    fold.take(2, 1, [2], {})
    assert fold.result() == 7


def test_fold_of_nothing_needs_initial():
    """An empty fold has no result unless there is an initial value."""
    with pytest.raises(TypeError, match="initial="):
        Fold("raise", operator.add, EMPTY).result()
    assert Fold("raise", operator.add, 5).result() == 5


def test_fold_skips_failures():
    """A failed item is left out of the fold."""
    fold = Fold("skip", operator.add, 0)
    fold.take(0, 3, [1, SKIP, 2], {1: ValueError()})
    assert fold.result() == 3


def test_each_piece_of_a_folded_report_brings_its_own_failures():
    """Accepted in pieces, a report gives its folded value with the first and each error with its own."""
    failures = [describe(KeyError(at), f"item {at}") for at in (5, 7)]
    folded = fold(encode([100, *failures], Dependencies(), what="")[0])
    report = ReportData(10, 4, 8, (5, 7), folded.parts, "w", 9)
    pieces = [results_of(Landed(1, 0, 10, lo, hi, report)) for lo, hi in ((4, 5), (5, 6), (6, 8))]
    assert [(values, sorted(failed)) for values, failed in pieces] == [([100], []), ([], [15]), ([], [17])]


def test_fold_cannot_return_errors():
    """Errors cannot be folded."""
    with pytest.raises(ValueError, match="no meaning for map_reduce"):
        Fold("return", operator.add, 0)


@pytest.mark.parametrize("reduce", [operator.add, np.add, np.maximum])
def test_arrays_are_folded_in_place_without_touching_what_is_not_ours(reduce):
    """One array is reused; the initial value and the results are never written to."""
    initial, first, second, third = (np.array([value, 5]) for value in (1, 2, 3, 4))
    fold = Fold("raise", reduce, initial)
    fold.take(0, 1, [first], {})
    mine = fold.result()
    fold.take(1, 2, [second, third], {})
    assert fold.result() is mine
    assert list(initial) == [1, 5]
    assert list(first) == [2, 5]
    expected = reduce(reduce(reduce(np.array([1, 5]), np.array([2, 5])), np.array([3, 5])), np.array([4, 5]))
    assert list(mine) == list(expected)


def test_folding_other_shapes_is_not_in_place():
    """Broadcasting and growing types go through the reducer itself."""
    fold = Fold("raise", operator.add, np.zeros(2, np.int8))
    fold.take(0, 2, [np.ones(2, np.int8), np.full(2, 0.5)], {})
    assert list(fold.result()) == [1.5, 1.5]


def test_a_lost_item_is_named():
    """The error says which item, what it is, and how each process died."""
    payload, _ = dump_items(["a", "b"])
    deaths = ("gpu1", "SIGSEGV"), ("gpu2", "SIGSEGV")
    error = exception_of(Lost(1, 1, 7, 1, "poison", deaths, payload))
    assert isinstance(error, PoisonItemError)
    assert str(error) == "item 7 ('b') ended 2 task processes: gpu1: SIGSEGV; gpu2: SIGSEGV"
    error = exception_of(Lost(1, 1, 7, 1, "poison", (*deaths, deaths[0]), payload))
    assert str(error) == "item 7 ('b') ended 3 task processes: gpu1: SIGSEGV (2 times); gpu2: SIGSEGV"
    late = exception_of(Lost(1, 1, 7, 1, "timeout", (("gpu1", "was ended"),), payload, 2.0))
    assert isinstance(late, ItemTimeout)
    assert str(late) == "item 7 ('b') ran longer than timeout=2 s on worker gpu1 and was stopped"
    late = exception_of(Lost(1, 1, 7, 1, "timeout", (*deaths[:1], ("gpu2", "was ended")), payload, 0.5))
    assert str(late).endswith("on worker gpu2 and was stopped (before, it ended 1 task process: gpu1: SIGSEGV)")
    lost = ("gpu1", "silent for 30 s"), ("gpu2", "it left")
    assert str(exception_of(Lost(1, 1, 7, 1, "hosts", (*lost, lost[0]), payload))) == (
        "item 7 ('b') was running each time as its worker was lost, 3 times, at last alone: gpu1: silent for 30 s "
        "(2 times); gpu2: it left; it may bring the host down"
    )


def test_an_item_without_memory_is_named():
    """With what it used, the limit, and what to do."""
    payload, _ = dump_items(["a", "b"])
    text = "used 2.1 GB of memory, and the limit of its slot is 2.0 GB"
    error = exception_of(Lost(1, 1, 7, 1, "limit", (("gpu1", text),), payload))
    assert isinstance(error, WorkerMemoryError)
    assert isinstance(error, PoisonItemError | MemoryError)
    assert str(error) == (
        f"item 7 ('b') passed the memory limit on worker gpu1: its task process {text}. Let the item do less at once, "
        "or raise the limit: distmap-worker --memory-limit, or Pool(memory_limit=...) for this machine"
    )
    text = "was ended by the system (SIGKILL), as memory ran out"
    error = exception_of(Lost(1, 1, 7, 1, "memory", (("gpu1", text), ("gpu2", text)), payload))
    assert isinstance(error, WorkerMemoryError)
    assert f"on worker gpu2, though it ran alone there: its task process {text}. Let" in str(error)
    assert error.__notes__ == [f"Before, it ended 1 task process: gpu1: {text}"]


def test_a_stream_places_errors_by_the_option():
    """raise, return, or skip."""
    error = ValueError("x")
    with pytest.raises(ValueError, match="x"):
        Stream("raise").place(error)
    assert Stream("return").place(error) is error
    assert Stream("skip").place(error) is SKIP
