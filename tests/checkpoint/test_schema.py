"""Opening a checkpoint: a new one, one that is there, and what is none."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from distmap.checkpoint import schema
from distmap.errors import CheckpointError


def tables(path: Path) -> set[str]:
    db = schema.connect(str(path))
    try:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        db.close()


def test_a_new_file_gets_the_tables_and_opens_again(tmp_path: Path) -> None:
    """A checkpoint that was made is opened again, and has its tables."""
    path = tmp_path / "a b?.sqlite"
    schema.connect(str(path), create=True).close()
    schema.connect(str(path), create=True).close()
    assert tables(path) == {"function", "chunk", "report", "owner"}
    assert path.read_bytes()[68:72] == schema.APPLICATION.to_bytes(4, "big")


def test_reading_makes_no_file(tmp_path: Path) -> None:
    """A checkpoint that is not there is named, and not made by looking at it."""
    path = tmp_path / "none.sqlite"
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*none\.sqlite"):
        schema.connect(str(path))
    assert not path.exists()


@pytest.mark.parametrize("pages", [0, 1])
def test_a_file_whose_making_was_cut_off_is_empty(tmp_path: Path, pages: int) -> None:
    """Its maker was killed before the tables were there: reading says that it is empty, a call makes them."""
    path = tmp_path / "scores.sqlite"
    path.touch()
    if pages:
        db = sqlite3.connect(path)
        db.execute("PRAGMA journal_mode=WAL")
        db.close()
    with pytest.raises(CheckpointError, match="nothing in it yet"):
        schema.connect(str(path))
    schema.connect(str(path), create=True).close()
    assert "report" in tables(path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A checkpoint in a folder that does not exist names the folder, and makes nothing."""
    with pytest.raises(CheckpointError, match=r"there is no folder .*runs; make it first"):
        schema.connect(str(tmp_path / "runs" / "x.sqlite"), create=True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", [b"a,b\n1,2\n" * 50, b"SQLite format 3\0" + b"\xff" * 500])
def test_a_foreign_file_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    """A file of another kind, or a damaged one, is refused by name and keeps its bytes."""
    path = tmp_path / "scores.csv"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"scores\.csv.*(no checkpoint|cannot be read)"):
        schema.connect(str(path), create=True)
    assert path.read_bytes() == content


def test_a_damaged_checkpoint_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    """A checkpoint whose pages are damaged is refused, and nothing is written to it."""
    path = tmp_path / "scores.sqlite"
    schema.connect(str(path), create=True).close()
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xa5" * 1900
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"scores\.sqlite cannot be read.*nothing in it was changed"):
        schema.connect(str(path), create=True)
    assert path.read_bytes() == content


def test_a_database_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    """An SQLite database with other tables is refused."""
    path = tmp_path / "mine.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t (x)")
    db.commit()
    db.close()
    with pytest.raises(CheckpointError, match="no checkpoint of distmap"):
        schema.connect(str(path), create=True)
    assert path.exists()


def test_another_version_is_named(tmp_path: Path) -> None:
    """A file of a later format says which one, and which this is."""
    path = tmp_path / "later.sqlite"
    db = schema.connect(str(path), create=True)
    db.execute("PRAGMA user_version=7")
    db.close()
    with pytest.raises(CheckpointError, match="its format is 7, this one reads 1"):
        schema.connect(str(path))


def test_a_local_disk_is_known() -> None:
    """The folder of temporary files counts as local, what the system does not tell too."""
    assert schema.is_local("/")
