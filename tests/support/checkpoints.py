"""What the tests of checkpoints write: one function, and results of it."""

from __future__ import annotations

from typing import Any

from distmap.checkpoint.schema import BY_PLACE
from distmap.checkpoint.sections import Behaviour
from distmap.checkpoint.store import ChunkRow, ReportRow, Store
from distmap.tasks.items import dump_items

SCORE = Behaviour("score", "one", b"1", {"the code of score": "1", "the global helper": "1"}, {})


def report(store: Store, function: int, first: int, values: list[Any], usable: list[tuple[int, int]]) -> ReportRow:
    """A report of results for the items from `first` on; `usable` are the spans that count."""
    chunk = ChunkRow(function, first, len(values), BY_PLACE * len(values))
    return ReportRow(chunk, 0, len(values), dump_items(values)[0].parts, "local", usable)


def write(store: Store, function: int, first: int, values: list[Any]) -> ReportRow:
    """Write such a report, all of which counts."""
    row = report(store, function, first, values, [(0, len(values))])
    store.write([row])
    return row
