"""Results are read one report at a time, and nothing of them is kept."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

from distmap.checkpoint.reader import ReportReader
from distmap.checkpoint.schema import BY_PLACE
from distmap.checkpoint.sections import Behaviour
from distmap.checkpoint.store import ChunkRow, ReportRow, close_store, open_store
from distmap.tasks.fingerprint import changes
from distmap.tasks.items import dump_items


class Thing:
    """Something that can be referred to weakly."""


def test_a_value_is_not_kept_when_its_report_was_read(tmp_path: Path) -> None:
    """Values of a report come in pieces; once the last one was given, the reader lets go of all of them."""
    path = str(tmp_path / "x.sqlite")
    store = open_store(path)
    section = store.section(Behaviour("f", "one", b"1", {}, {}), "error", changes)
    row = ReportRow(
        ChunkRow(section.function, 0, 3, BY_PLACE * 3), 0, 3, dump_items([Thing(), 1, Thing()])[0].parts, "", [(0, 3)]
    )
    store.write([row])
    close_store(store)
    reader = ReportReader(path)
    (first,), plain = reader.values(row.id, 0, 1)
    assert not plain, "a class of the user's may not unpickle"
    assert isinstance(first, Thing)
    rest, _ = reader.values(row.id, 1, 2)
    seen = weakref.ref(first)
    del first, rest
    gc.collect()
    assert seen() is None
