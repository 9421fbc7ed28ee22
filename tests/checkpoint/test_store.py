"""Writing a checkpoint."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from support.checkpoints import SCORE, report, write

from distmap.checkpoint.reader import ReportReader
from distmap.checkpoint.store import NoRoom, Store, close_store, open_store
from distmap.core.limits import LIMITS
from distmap.errors import CheckpointError, CheckpointInUse
from distmap.tasks.fingerprint import changes


def test_results_come_back(store: Store) -> None:
    """What was written is found by a later call of the same function, large values too."""
    section = store.section(SCORE, "error", changes)
    assert section.items == 0
    large = [os.urandom(LIMITS.checkpoint_inline_bytes), 7]
    write(store, section.function, 0, ["a", "b", "c"])
    row = write(store, section.function, 3, large)
    assert os.listdir(store.folder) == [str(row.id)]
    again = store.section(SCORE, "error", changes)
    assert (again.function, again.items) == (section.function, 5)
    first, second = store.chunks(again, 0, 10)
    assert (first.first, first.count, second.first, second.end) == (0, 3, 3, 5)
    assert store.last_index(again) == 3
    assert not store.chunks(section, 0, 10), "a call does not find its own results"
    reader = ReportReader(store.path)
    assert reader.values(first.reports[0].id, 1, 2) == (["b", "c"], True)
    assert reader.values(row.id, 0, 1)[0] + reader.values(row.id, 1, 1)[0] == large


def test_a_report_may_come_in_pieces_and_lack_items(store: Store) -> None:
    """Offsets without a result are noted, and a later piece of the same report is added to its row."""
    section = store.section(SCORE, "error", changes)
    row = report(store, section.function, 0, list("abcdef"), [(0, 1), (2, 3)])
    store.write([row])
    later = store.section(SCORE, "error", changes)
    (chunk,) = store.chunks(later, 0, 1)
    assert list(chunk.reports[0].spans()) == [(0, 1), (2, 3)]
    row.usable.append((4, 6))
    store.write([row])
    (chunk,) = store.chunks(later, 0, 1)
    assert list(chunk.reports[0].spans()) == [(0, 1), (2, 3), (4, 6)]


def test_a_full_disk_leaves_nothing_half_written_and_is_tried_again(store: Store) -> None:
    """What does not fit is not there at all; written again later it is."""
    section = store.section(SCORE, "error", changes)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    rows = [report(store, section.function, 9 * at, [os.urandom(9000)], [(0, 1)]) for at in range(9)]
    with pytest.raises(NoRoom, match="full"):
        store.write(rows)
    assert store.section(SCORE, "error", changes).items == 0
    store._db.execute("PRAGMA max_page_count=100000")
    store.write(rows)
    assert store.section(SCORE, "error", changes).items == 9


def test_results_are_forgotten_from_an_index_on(store: Store) -> None:
    """Results of earlier calls go, with their files; those before the index stay."""
    section = store.section(SCORE, "error", changes)
    write(store, section.function, 0, ["stays"])
    write(store, section.function, 1, [os.urandom(LIMITS.checkpoint_inline_bytes)])
    later = store.section(SCORE, "error", changes)
    store.forget(later, 1)
    assert [chunk.first for chunk in store.chunks(later, 0, 9)] == [0]
    assert os.listdir(store.folder) == []


def test_files_that_were_never_committed_are_removed(tmp_path: Path) -> None:
    """A large value whose row is missing, left by a kill, is removed when the checkpoint is opened."""
    path = tmp_path / "x.sqlite"
    close_store(open_store(str(path)))
    folder = tmp_path / "x.sqlite.d"
    folder.mkdir()
    (folder / "7").write_bytes(b"x")
    (folder / "8.tmp").write_bytes(b"x")
    close_store(open_store(str(path)))
    assert not list(folder.iterdir())


def test_calls_of_one_process_share_a_store(store: Store, tmp_path: Path) -> None:
    """The same file, under another name too, is opened once; it is free when the last call is over."""
    (tmp_path / "link.sqlite").symlink_to(store.path)
    again = open_store(str(tmp_path / "link.sqlite"))
    assert again is store
    close_store(again)
    store.beat()


def test_who_lost_the_file_writes_no_more(store: Store) -> None:
    """After another process took the file over nothing is written."""
    section = store.section(SCORE, "error", changes)
    db = sqlite3.connect(store.path)
    db.execute("UPDATE owner SET token = 'another', host = 'elsewhere'")
    db.commit()
    db.close()
    with pytest.raises(CheckpointInUse, match="elsewhere"):
        write(store, section.function, 0, [1])


def test_a_result_that_is_gone_is_named(store: Store) -> None:
    """A report that is not there is an error of the checkpoint."""
    with pytest.raises(CheckpointError, match="result 99 is no longer"):
        ReportReader(store.path).values(99, 0, 1)
