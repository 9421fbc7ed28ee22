"""A checkpoint that is open for writing: one for each file of this process, shared by its calls.

Owns the order of reading and writing, the numbers of new rows, and what is done if a function has changed. Must not
know threads or jobs: reading and writing have a connection and a lock each, so that neither waits for the other.
Values are written first, then the rows that name them, in one transaction.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distmap.checkpoint.owner import Owner
from distmap.checkpoint.schema import KEY, connect, folder_of, unreadable
from distmap.checkpoint.sections import Behaviour, Changes, OnChange, Section, find
from distmap.checkpoint.values import pack_parts, remove_files, write_file
from distmap.errors import CheckpointError
from distmap.tasks._typing import NamedTuple

if TYPE_CHECKING:
    pass


#: What a system says if there is no room, or none for this user.
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class NoRoom(Exception):
    """It could not be written now, but may be later: the disk is full, or a network file system is away."""


@dataclass(slots=True)
class ChunkRow:
    """Items that were read together; see the table `chunk`."""

    function: int
    first: int
    count: int
    keys: bytes
    id: int = 0
    written: bool = False


@dataclass(slots=True)
class ReportRow:
    """What is usable of one report; see the table `report`. It grows if the report is accepted in pieces."""

    chunk: ChunkRow
    lo: int
    hi: int
    parts: Sequence[Any]
    worker: str
    #: Offsets that have a usable result.
    usable: list[tuple[int, int]]
    id: int = 0
    written: bool = False

    @property
    def items(self) -> int:
        return sum(hi - lo for lo, hi in self.usable)

    @property
    def missing(self) -> str | None:
        """As the table has it."""
        spans, at = [], self.lo
        for lo, hi in sorted(self.usable):
            if at < lo:
                spans.append([at, lo])
            at = hi
        if at < self.hi:
            spans.append([at, self.hi])
        return json.dumps(spans) if spans else None


class KnownReport(NamedTuple):
    """Results of items [lo, hi) of a chunk, but for those of the spans that are missing."""

    id: int
    lo: int
    hi: int
    missing: tuple[tuple[int, int], ...]

    def spans(self) -> Iterator[tuple[int, int]]:
        """Offsets with a result."""
        at = self.lo
        for lo, hi in (*self.missing, (self.hi, self.hi)):
            if at < lo:
                yield at, lo
            at = hi


class KnownChunk(NamedTuple):
    """A chunk of an earlier call, and what is known of it."""

    first: int
    count: int  # type: ignore[assignment]
    keys: bytes
    reports: tuple[KnownReport, ...]

    @property
    def is_block(self) -> bool:
        """Its items have one key together."""
        return len(self.keys) != KEY * self.count

    @property
    def end(self) -> int:
        return self.first + self.count


class Store:
    """A checkpoint, open for writing.

    Args:
        path: as the user gave it, for messages.

    Raises:
        CheckpointError: the file is no checkpoint, is damaged, or cannot be made.
        CheckpointInUse: another process writes to it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.folder = folder_of(path)
        self._lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._owner = Owner(path)
        self._db = connect(path, create=True)
        try:
            with self._transaction(beat=False):
                self._owner.take(self._db)
            self._reader = connect(path)
        except NoRoom as error:
            self._db.close()
            raise CheckpointError(f"checkpoint {path} cannot be written: {error}") from error
        except BaseException:
            self._db.close()
            raise
        self._chunks, self._reports = (
            self._db.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0] for table in ("chunk", "report")
        )
        self._remove_orphans()

    def close(self) -> None:
        """Give the file free. What was committed stays, whatever fails here."""
        with self._lock, self._read_lock:
            try:
                with contextlib.suppress(NoRoom), self._transaction(beat=False):
                    self._owner.release(self._db)
            finally:
                self._reader.close()
                self._db.close()

    def _remove_orphans(self) -> None:
        """Remove files of large values whose row was never committed."""
        if os.path.isdir(self.folder):
            names = os.listdir(self.folder)
            numbers = {int(name) for name in names if name.isdecimal()}
            known = {row[0] for row in self._db.execute("SELECT id FROM report WHERE data IS NULL")}
            remove_files(self.folder, numbers - known)
            for name in names:
                if name.endswith(".tmp"):
                    os.remove(os.path.join(self.folder, name))

    @contextlib.contextmanager
    def _transaction(self, *, beat: bool = True) -> Iterator[None]:
        """What is written inside is written whole or not at all."""
        import sqlite3

        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            if beat:
                self._owner.beat(db)
            yield
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # it rolls back by itself, where the disk is full
                    db.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError | OSError):
                full = getattr(error, "errno", None) in _FULL or "disk is full" in str(error)
                raise NoRoom("the disk is full" if full else str(error)) from error
            if isinstance(error, sqlite3.Error):
                raise unreadable(self.path, error) from error
            raise

    # --- functions ----------------------------------------------------------------------------------------------------

    def section(self, behaviour: Behaviour, on_change: OnChange, changes: Changes) -> Section:
        """The results of a function; see `sections.find`.

        Raises:
            CheckpointChanged: there are results of that name, of a function that did something else.
            CheckpointError: it cannot be written.
        """
        try:
            with self._lock, self._transaction():
                return find(self._db, self.path, self._chunks + 1, behaviour, on_change, changes)
        except NoRoom as error:
            raise CheckpointError(f"checkpoint {self.path} cannot be written: {error}") from error

    def options_of(self, name: str, style: str) -> dict[str, Any]:
        """Options of the last call of a function of this name; empty if there was none."""
        rows = self._query(
            "SELECT options FROM function WHERE name = ? AND style = ? ORDER BY used DESC LIMIT 1", (name, style)
        )
        return dict(json.loads(rows[0][0])) if rows else {}

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, reports: Sequence[ReportRow]) -> None:
        """Write reports, and their chunks if they are not there yet; all or none.

        Raises:
            NoRoom: not now; try again with the same rows.
            CheckpointInUse: another process has taken the file over.
            CheckpointError: the file is damaged.
        """
        with self._lock:
            for row in reports:
                if not row.chunk.id:
                    self._chunks += 1
                    row.chunk.id = self._chunks
                if not row.id:
                    self._reports += 1
                    row.id = self._reports
            with self._transaction():
                chunks: set[int] = set()
                for row in reports:
                    self._write(row, chunks)
            for row in reports:
                row.written = row.chunk.written = True
                row.parts = ()

    def _write(self, row: ReportRow, chunks: set[int]) -> None:
        db, chunk = self._db, row.chunk
        if not chunk.written and chunk.id not in chunks:
            chunks.add(chunk.id)
            db.execute(
                "INSERT INTO chunk VALUES (?, ?, ?, ?, ?)",
                (chunk.id, chunk.function, chunk.first, chunk.count, chunk.keys),
            )
        if row.written:
            db.execute("UPDATE report SET items = ?, missing = ? WHERE id = ?", (row.items, row.missing, row.id))
            return
        # Of many tiny items the time counts, not the disk.
        packed = pack_parts(row.parts, compress=len(chunk.keys) == KEY * chunk.count)
        if packed.is_large:
            write_file(self.folder, row.id, packed.pieces)
        db.execute(
            "INSERT INTO report VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.id, chunk.id, row.lo, row.hi, row.items, row.missing, packed.sizes, packed.codec,
                None if packed.is_large else b"".join(packed.pieces), packed.nbytes, row.worker, time.time(),
            ),
        )  # fmt: skip

    def beat(self) -> None:
        """Say that this process is here, if it is time for that.

        Raises:
            NoRoom, CheckpointInUse, CheckpointError: as `write`.
        """
        if self._owner.due:
            with self._lock, self._transaction():
                pass

    def forget(self, section: Section, first: int) -> None:
        """Forget what earlier calls knew of items from index `first` on.

        Raises:
            NoRoom, CheckpointInUse, CheckpointError: as `write`.
        """
        which = "SELECT id FROM chunk WHERE function = ? AND id < ? AND first >= ?"
        values = (section.function, section.before, first)
        with self._lock:
            with self._transaction():
                files = self._db.execute(f"SELECT id FROM report WHERE data IS NULL AND chunk IN ({which})", values)
                large = [row[0] for row in files]
                self._db.execute(f"DELETE FROM report WHERE chunk IN ({which})", values)
                self._db.execute("DELETE FROM chunk WHERE function = ? AND id < ? AND first >= ?", values)
            remove_files(self.folder, large)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _query(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        import sqlite3

        try:
            with self._read_lock:
                return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise unreadable(self.path, error) from error

    def chunks(self, section: Section, lo: int, hi: int) -> list[KnownChunk]:
        """Chunks of earlier calls that begin at indices [lo, hi), in order."""
        rows = self._query(
            "SELECT chunk.id, first, count, keys, report.id, lo, hi, missing FROM chunk JOIN report "
            "ON report.chunk = chunk.id WHERE function = ? AND first >= ? AND first < ? AND chunk.id < ? "
            "ORDER BY first, chunk.id, lo",
            (section.function, lo, hi, section.before),
        )
        found: list[KnownChunk] = []
        last = 0
        for number, first, count, keys, report, low, high, missing in rows:
            spans = tuple((lo, hi) for lo, hi in json.loads(missing)) if missing else ()
            one = KnownReport(report, low, high, spans)
            if number == last:
                found[-1] = found[-1]._replace(reports=(*found[-1].reports, one))
            else:
                found.append(KnownChunk(first, count, keys, (one,)))
            last = number
        return found

    def last_index(self, section: Section) -> int:
        """The largest index at which a chunk of an earlier call begins; -1: there is none."""
        sql = "SELECT coalesce(max(first), -1) FROM chunk WHERE function = ? AND id < ?"
        return int(self._query(sql, (section.function, section.before))[0][0])


# --- one for each file of this process --------------------------------------------------------------------------------

_open: dict[str, tuple[Store, int]] = {}
_open_lock = threading.Lock()


def open_store(path: str) -> Store:
    """The store of a file; calls of this process that run at the same time share it. Give it back to `close_store`.

    Raises:
        CheckpointError, CheckpointInUse: as `Store`.
    """
    key = os.path.realpath(path)
    with _open_lock:
        store, users = _open[key] if key in _open else (Store(path), 0)
        _open[key] = store, users + 1
        return store


def close_store(store: Store) -> None:
    """A call is over; the last one closes the file."""
    with _open_lock:
        key, users = next((key, users) for key, (one, users) in _open.items() if one is store)
        if users > 1:
            _open[key] = store, users - 1
            return
        del _open[key]
    store.close()
