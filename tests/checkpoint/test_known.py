"""Which items of an input are known, and what is done about changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from distmap.checkpoint.keys import Keyer
from distmap.checkpoint.known import Known, Run
from distmap.checkpoint.sections import Behaviour, OnChange, Section
from distmap.checkpoint.store import ChunkRow, ReportRow, Store
from distmap.core.limits import LIMITS
from distmap.errors import CheckpointChanged
from distmap.tasks.fingerprint import changes
from distmap.tasks.items import dump_items

BEHAVIOUR = Behaviour("f", "one", b"1", {}, {})


def section_of(store: Store) -> Section:
    return store.section(BEHAVIOUR, "error", changes)


def fill(store: Store, items: Sequence[Any], first: int = 0, size: int = 2) -> None:
    """As a call would: chunks of `size` items, the result of an item is ("result", item)."""
    function = section_of(store).function
    for at in range(0, len(items), size):
        part = list(items[at : at + size])
        chunk = ChunkRow(function, first + at, len(part), Keyer().chunk(part))
        parts = dump_items([("result", item) for item in part])[0].parts
        store.write([ReportRow(chunk, 0, len(part), parts, "", [(0, len(part))])])


def unknown(
    store: Store, items: Sequence[Any], on_change: OnChange = "error", *, prompt: bool = True, **rest: Any
) -> list[Any]:
    """The items that a call over `items` would compute, read piece by piece as `Recall` does."""
    rest.setdefault("rest", (lambda index: items[index + 1 :]) if prompt else (lambda index: None))
    known = Known(store, section_of(store), Keyer(), on_change, **rest)
    found: list[Any] = []
    used: list[tuple[int, int]] = []
    at = 0
    while at < len(items):
        part = items[at : at + known.stretch(at, 4)[0]]
        covered = 0
        for run in known.runs(at, part, [None] * len(part)):
            assert run.first == at + covered
            covered += run.count
            if run.report:
                used += [(run.report, run.at + i) for i in range(run.count)]
            else:
                found += items[run.first : run.first + run.count]
        assert covered == len(part)
        at += len(part)
    assert len(set(used)) == len(used), "a result was used twice"
    return found


def test_the_same_data_is_known_and_more_is_computed(store: Store) -> None:
    """All items of the earlier call are known; those behind them are not."""
    items = [[at] for at in range(10)]
    fill(store, items)
    assert unknown(store, items) == []
    assert unknown(store, [*items, "new"]) == ["new"]
    assert unknown(store, items[:3]) == []


@pytest.mark.parametrize(
    ("data", "computed"),
    [
        (list("xabcdef"), ["x"]),
        (list("abxcdef"), ["x"]),
        (list("bcdef"), []),
        (list("acdexyz"), list("xyz")),
        (list("fedcba"), []),
        (list("xfyedcba"), list("xy")),
    ],
)
def test_inserted_removed_and_moved_items_cost_nothing(store: Store, data: list[str], computed: list[str]) -> None:
    """Only what is new is computed, wherever the others went; nothing is taken for a change."""
    fill(store, list("abcdef"))
    assert unknown(store, data) == computed


def test_equal_items_have_a_result_each(store: Store) -> None:
    """A result is used once: of three equal items where two were known one is computed."""
    fill(store, list("aab"))
    assert unknown(store, list("aba")) == []
    assert unknown(store, list("aaab")) == ["a"]
    assert unknown(store, list("baaa")) == ["a"]


def test_several_calls_fill_one_file(store: Store) -> None:
    """Results of a later call for other data at the same indices are found too."""
    fill(store, list("abcd"))
    fill(store, list("wxyz"))
    assert unknown(store, list("abcd")) == unknown(store, list("wxyz")) == unknown(store, list("abyz")) == []
    assert unknown(store, list("wxyzabcd")) == []


def test_a_replaced_item_is_an_error_that_names_it(store: Store) -> None:
    """Where another item was, which is nowhere in the data, the default refuses."""
    fill(store, list("abcd"))
    with pytest.raises(CheckpointChanged, match=r"item 2 of the data is 'X', and another item was there"):
        unknown(store, list("abXd"))
    with pytest.raises(CheckpointChanged, match="item 1 of the data"):
        unknown(store, list("aXbcd"), prompt=False)  # of an iterator nobody can look ahead


class Thing:
    """An item with a class of the user's."""

    def __init__(self, at: int) -> None:
        self.at = at


def test_a_replaced_object_may_have_another_class(store: Store) -> None:
    """Of an item whose class is the user's, the sentence says that it may be the class that changed."""
    fill(store, [Thing(1), Thing(2)])
    assert unknown(store, [Thing(1), Thing(2)]) == []
    with pytest.raises(CheckpointChanged, match="another item, or another class Thing, was there"):
        unknown(store, [Thing(1), Thing(3)])


def test_keep_computes_what_changed(store: Store) -> None:
    """ "keep" computes replaced items only, and says so once."""
    fill(store, list("abcdef"))
    told: list[str] = []
    assert unknown(store, list("abXdYf"), "keep", tell=told.append) == ["X", "Y"]
    assert len(told) == 1
    assert "item 2 of the data is 'X'" in told[0]


def test_restart_computes_from_the_change_on(store: Store) -> None:
    """ "restart" forgets what is behind the first changed item."""
    fill(store, list("abcdef"), size=1)
    assert unknown(store, list("abXdef"), "restart") == list("Xdef")
    assert unknown(store, list("abcdef")) == list("cdef")


def test_with_a_seed_a_result_counts_at_its_index_only(store: Store) -> None:
    """What depends on the index is not taken elsewhere: another order is a change."""
    fill(store, list("abcd"))
    assert unknown(store, list("abcd"), exact=True) == []
    with pytest.raises(CheckpointChanged, match="item 0 of the data is 'b'"):
        unknown(store, list("badc"), exact=True)
    assert unknown(store, list("badc"), "keep", exact=True) == list("badc")


def test_many_plain_items_are_known_together(store: Store) -> None:
    """A block is known if all of it is the same, and changed if not; a shorter input just does not know it."""
    many = LIMITS.checkpoint_block_items
    items = list(range(3 * many))
    fill(store, items[:5], size=1)
    fill(store, items[5:], first=5, size=many)
    assert unknown(store, items) == []
    assert unknown(store, [*items, -1, -2]) == [-1, -2]
    assert unknown(store, items[: 5 + many + 10]) == items[5 + many : 5 + many + 10]
    other = [*items[:20], -1, *items[21:]]
    with pytest.raises(CheckpointChanged, match=f"items 5 to {4 + many} of the data"):
        unknown(store, other)
    assert unknown(store, other, "keep") == other[5 : 5 + many]


def test_gaps_of_a_block_are_filled(store: Store) -> None:
    """What a later call computed inside a block that was cut short is known, in blocks and one by one."""
    many = LIMITS.checkpoint_block_items
    items = list(range(4 * many))
    function = section_of(store).function
    chunk = ChunkRow(function, 0, len(items), Keyer().chunk(items))
    parts = dump_items(items[2 * many : 3 * many])[0].parts
    store.write([ReportRow(chunk, 2 * many, 3 * many, parts, "", [(2 * many, 3 * many)])])
    assert unknown(store, items) == [*items[: 2 * many], *items[3 * many :]]
    fill(store, items[: 2 * many], size=many)
    fill(store, items[3 * many : 3 * many + 10], first=3 * many)
    assert unknown(store, items) == items[3 * many + 10 :]
    fill(store, items, size=len(items))
    assert unknown(store, items) == []


def test_a_block_behind_a_gap_is_compared_from_its_beginning(store: Store) -> None:
    """However many items are wanted, a stretch ends where a block begins; so the block is found."""
    many = LIMITS.checkpoint_block_items
    items = list(range(8000))
    fill(store, items[6000:], first=6000, size=2000)
    known = Known(store, section_of(store), Keyer(), "error")
    assert known.stretch(0, 100_000) == (6000, False)
    assert known.runs(0, items[:6000], [None] * 6000) == [Run(0, 6000)]
    assert known.stretch(6000, many) == (2000, True)
    assert [run.report > 0 for run in known.runs(6000, items[6000:], [None] * 2000)] == [True]
    assert known.stretch(8000, 7) == (7, False)


def test_items_without_a_result_are_computed(store: Store) -> None:
    """Items of a report that failed are not known, their neighbours are."""
    function = section_of(store).function
    chunk = ChunkRow(function, 0, 4, Keyer().chunk(list("abcd")))
    store.write([ReportRow(chunk, 0, 4, dump_items(list("abcd"))[0].parts, "", [(0, 1), (2, 4)])])
    assert unknown(store, list("abcd")) == ["b"]
