"""Reading a checkpoint that another process may be writing to.

Owns which results of a function count, and their order. Must not know how they look, or who asks. Nothing is written,
and no transaction stays open while values are looked at: the writer would have to keep what it replaced. Any thread.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from distmap.checkpoint.owner import Process, is_alive, this_process
from distmap.checkpoint.reader import ReportReader
from distmap.checkpoint.schema import connect, folder_of, unreadable
from distmap.errors import CheckpointError
from distmap.tasks._typing import NamedTuple
from distmap.tasks.failures import Failure


class FunctionRow(NamedTuple):
    """A function with results; see the table `function`."""

    id: int
    name: str
    style: str
    parts: dict[str, str]
    options: dict[str, Any]
    versions: dict[str, str]
    python: str
    made: float
    used: float
    nbytes: int
    items: int


class OwnerRow(NamedTuple):
    """Who writes to a checkpoint."""

    pid: int
    host: str
    #: Seconds since 1970.
    since: float


class Span(NamedTuple):
    """Results of items [lo, hi), the first one at offset `at` of the report's chunk; a later `chunk` counts more."""

    lo: int
    hi: int
    chunk: int
    report: int
    at: int


class Reader:
    """A connection for reading.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._db = connect(path)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def functions(self) -> list[FunctionRow]:
        """The functions, the one that was used last first."""
        rows = self._query(
            "SELECT function.id, name, style, parts, options, versions, python, function.made, used, "
            "coalesce(sum(nbytes), 0) FROM function "
            "LEFT JOIN chunk ON chunk.function = function.id LEFT JOIN report ON report.chunk = chunk.id "
            "GROUP BY function.id ORDER BY used DESC, function.id DESC"
        )
        return [
            FunctionRow._make((*row[:3], *map(json.loads, row[3:6]), *row[6:], self._items(row[0]))) for row in rows
        ]

    def _items(self, function: int) -> int:
        """How many items have a result: one that was computed again counts once."""
        return sum(span.hi - span.lo for span in self.spans(function))

    def owner(self) -> OwnerRow | None:
        """Who writes to it at this moment."""
        rows = self._query("SELECT pid, host, boot, started, heartbeat, since FROM owner")
        for pid, host, boot, started, heartbeat, since in rows:
            process = Process(pid, host, boot, started)
            if process == this_process() or is_alive(process, heartbeat):
                return OwnerRow(pid, host, since)
        return None

    def spans(self, function: int) -> list[Span]:
        """The results of a function in the order of their items, each item once: as it was computed last."""
        rows = self._query(
            "SELECT chunk.id, first, report.id, lo, hi, missing FROM chunk JOIN report ON report.chunk = chunk.id "
            "WHERE function = ?",
            function,
        )
        found: list[Span] = []
        for chunk, first, report, lo, hi, missing in rows:
            at = lo
            for begin, end in (*(json.loads(missing) if missing else ()), (hi, hi)):
                if at < begin:
                    found.append(Span(first + at, first + begin, chunk, report, at))
                at = end
        return list(_newest(found))

    def _query(self, sql: str, *values: Any) -> list[Any]:
        import sqlite3

        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise unreadable(self.path, error) from error


def _newest(spans: Iterable[Span]) -> Iterator[Span]:
    """Spans without overlap, in order: where several have an item, the one of the latest chunk."""
    waiting = sorted(spans, reverse=True)
    #: Those that have begun, the latest chunk first.
    open_: list[tuple[int, int, Span]] = []
    at = 0
    while waiting or open_:
        if not open_:
            at = max(at, waiting[-1].lo)
        while waiting and waiting[-1].lo <= at:
            span = waiting.pop()
            heapq.heappush(open_, (-span.chunk, -span.report, span))
        span = open_[0][2]
        if span.hi <= at:
            heapq.heappop(open_)
            continue
        until = min(span.hi, waiting[-1].lo) if waiting else span.hi
        yield span._replace(lo=at, hi=until, at=span.at + at - span.lo)
        at = until


def results(path: str, function: int) -> Iterator[tuple[int, Any]]:
    """Index and result of each item, in order. Values are unpickled when their report is reached.

    Raises:
        CheckpointError: a result cannot be read.
    """
    with Reader(path) as reader:
        spans = reader.spans(function)
    reports = ReportReader(path)
    for span in spans:
        values, _ = reports.values(span.report, span.at, span.hi - span.lo)
        for index, value in enumerate(values, start=span.lo):
            if isinstance(value, Failure):
                raise CheckpointError(
                    f"the result of item {index} in checkpoint {path} cannot be unpickled here: {value.message}"
                )
            yield index, value


def size_on_disk(path: str) -> int:
    """Bytes of the file, of what SQLite keeps beside it, and of large results."""
    folder = folder_of(path)
    large = [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
    found = 0
    for file in (path, path + "-wal", path + "-shm", *large):
        try:
            found += os.path.getsize(file)
        except FileNotFoundError:  # it comes and goes with those that write
            continue
    return found
