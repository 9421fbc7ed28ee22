"""The results of one function in a checkpoint, and what is done if the function has changed.

Owns the rows of `function` and the sentence that says what changed. Must not know items. Inside a transaction of the
caller's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from distmap.errors import CheckpointChanged
from distmap.tasks._typing import NamedTuple
from distmap.tasks.fingerprint import version_changes
from distmap.tasks.payload import digest_of

if TYPE_CHECKING:
    import sqlite3

OnChange = Literal["error", "restart", "keep"]
#: Says what differs between two sets of parts, in words.
Changes = Callable[[Mapping[str, str], Mapping[str, str]], list[str]]


class Section(NamedTuple):
    """The results of one function in a checkpoint, as they were when the call began."""

    function: int
    #: Chunks from this number on are of this call.
    before: int
    #: Items that have a result.
    items: int
    options: dict[str, Any]
    #: What is to be said of it; empty: nothing.
    notice: str = ""


class Behaviour(NamedTuple):
    """What the results of a call depend on, besides its items."""

    name: str
    style: str
    digest: bytes
    parts: Mapping[str, str]
    #: Options of the call that change results.
    options: Mapping[str, Any]
    #: Of packages that the function reaches: they are mentioned only.
    versions: Mapping[str, str] = MappingProxyType({})

    @property
    def key(self) -> bytes:
        return digest_of(self.digest, json.dumps(self.options, sort_keys=True).encode())


def find(
    db: sqlite3.Connection, path: str, before: int, behaviour: Behaviour, on_change: OnChange, changes: Changes
) -> Section:
    """The results of a function; a new row for one that is new here.

    Args:
        path: of the file, for messages.
        before: the number that the next chunk will get.

    Raises:
        CheckpointChanged: there are results of that name, of a function that did something else.
    """
    b, now, notice = behaviour, time.time(), ""
    rows = db.execute(
        "SELECT id, digest, parts, options, (SELECT coalesce(sum(items), 0) FROM report JOIN chunk ON "
        "report.chunk = chunk.id WHERE chunk.function = function.id) AS items, versions FROM function "
        "WHERE name = ? AND style = ? ORDER BY used DESC",
        (b.name, b.style),
    ).fetchall()
    row = next((row for row in rows if row[1] == b.key), None)
    old = next((row for row in rows if row[4]), None) if row is None else None
    if old is not None:
        what = _differences(b, json.loads(old[2]), json.loads(old[3]), changes)
        notice = f"{what} since {_count(old[4], 'result')} of {b.name} in {path} were made"
        if on_change == "error":
            raise CheckpointChanged(
                f'{notice}. on_change="restart" computes all items anew (the old results stay in the file), '
                '"keep" takes the old results all the same'
            )
        row = old if on_change == "keep" else None
        notice += "; they are kept" if on_change == "keep" else "; all items are computed anew"
    now_is = (b.key, *[json.dumps(dict(some)) for some in (b.parts, b.options, b.versions)], now)
    if row is not None:
        words = _listed(version_changes(json.loads(row[5]), b.versions))
        if words and row[4] and not notice:
            notice = f"{words} when {_count(row[4], 'result')} of {b.name} in {path} were made; they are kept"
        sql = "UPDATE function SET digest = ?, parts = ?, options = ?, versions = ?, used = ? WHERE id = ?"
        db.execute(sql, (*now_is, row[0]))
        return Section(row[0], before, row[4], dict(b.options), notice)
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    number = db.execute(
        "INSERT INTO function (digest, parts, options, versions, used, name, style, python, made) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*now_is, b.name, b.style, python, now),
    ).lastrowid
    assert number is not None
    return Section(number, before, 0, dict(b.options), notice)


def _differences(behaviour: Behaviour, parts: Mapping[str, str], options: Mapping[str, Any], changes: Any) -> str:
    """What changed, in words: of the function, then of the options."""
    found = list(changes(parts, behaviour.parts))
    for name in sorted({*options, *behaviour.options}):
        before, after = options.get(name), behaviour.options.get(name)
        if before != after:
            found.append(f"{name}= was {before!r} and is {after!r}")
    return _listed(found) or f"{behaviour.name} changed"


def _listed(words: Sequence[str]) -> str:
    if len(words) > 4:
        words = [*words[:3], f"{len(words) - 3} more"]
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' * (n != 1)}"
