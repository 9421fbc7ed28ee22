"""Results of a checkpoint, read one report at a time.

Owns a connection for reading and the report that was read last: neighbours come from one report. Must not know keys or
jobs. Any thread, one at a time: unpickling runs the user's code, so the lock is not held meanwhile.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from distmap.checkpoint.schema import connect, folder_of, unreadable
from distmap.checkpoint.values import read_file, unpack_parts
from distmap.errors import CheckpointError
from distmap.tasks.items import is_plain, load_results

if TYPE_CHECKING:
    import sqlite3


class ReportReader:
    """Gives the values of reports. It opens the file at the first one, and closes it when it is forgotten."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        #: The report that was read last: its number, the offset of its first item in its chunk, its parts or values.
        self._last: tuple[int, int, Any] = (0, 0, ())

    def parts(self, report: int) -> tuple[list[Any], int, int]:
        """The parts of a report, and the offsets [lo, hi) of its items in their chunk.

        Raises:
            CheckpointError: they are gone or damaged.
        """
        import sqlite3

        with self._lock:
            if self._db is None:
                self._db = connect(self._path)
                weakref.finalize(self, self._db.close)
            try:
                row = self._db.execute(
                    "SELECT sizes, codec, data, lo, hi FROM report WHERE id = ?", (report,)
                ).fetchone()
            except sqlite3.Error as error:
                raise unreadable(self._path, error) from error
        if row is None:
            raise CheckpointError(f"result {report} is no longer in checkpoint {self._path}")
        sizes, codec, data, lo, hi = row
        try:
            found = read_file(folder_of(self._path), report) if data is None else data
            return unpack_parts(sizes, codec, found), lo, hi
        except ValueError as error:
            raise unreadable(self._path, error) from error

    def values(self, report: int, at: int, count: int) -> tuple[list[Any], bool]:
        """The values of `count` items from offset `at` on, a Failure for each that does not unpickle.

        Also whether there can be no Failure among them. Each value is given once: it is not kept here.

        Raises:
            CheckpointError: they are gone or damaged.
        """
        number, lo, values = self._last
        if number != report:
            parts, lo, hi = self.parts(report)
            values = load_results(parts, lo, hi), is_plain(parts)
        found, plain = values
        wanted = found[at - lo : at - lo + count]
        done = at - lo + count >= len(found)
        self._last = (0, 0, ()) if done else (report, lo, values)
        return wanted, plain
