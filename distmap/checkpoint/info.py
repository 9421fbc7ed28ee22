"""What is in a checkpoint, for people and programs, without a pool.

Owns the public names `checkpoint_info`, `CheckpointInfo`, `FunctionInfo` and `Checkpoint`. `contents.py` reads the
file, `views/checkpoint_card.py` knows how it looks: so this module has a ring above both. Any thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from distmap.checkpoint.contents import FunctionRow, Reader, results, size_on_disk
from distmap.errors import CheckpointError
from distmap.tasks.fingerprint import changes, fingerprint
from distmap.views.checkpoint_card import CheckpointFacts, FunctionFacts, checkpoint_html, checkpoint_text


@dataclass(frozen=True)
class FunctionInfo:
    """A function whose results are in a checkpoint.

    Attributes:
        name: its qualified name, such as `score`.
        items: number of results.
        nbytes: bytes of the results, compressed.
        first_used: when the first call with it began, in local time.
        last_used: when the last call with it began.
        python: version of Python that computed the results, such as `3.12`.
        options: options of the call that change results, such as `{"seed": 1}`.
        versions: versions of the packages that the function reaches, at the last call, such as `{"numpy": "2.4.0"}`.
        current: False if a later version of the function took its place (`on_change="restart"`).
    """

    name: str
    items: int
    nbytes: int
    first_used: datetime
    last_used: datetime
    python: str
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    current: bool = True


@dataclass(frozen=True, repr=False)
class CheckpointInfo:
    """What is in a checkpoint, at one moment. Shows itself as a table.

    Attributes:
        path: the file.
        functions: the functions whose results it has, the one that was used last first.
        nbytes: bytes on the disk, with those of large results in the folder beside it.
        owner: who writes to it, such as `process 71 on lab7, since 2026-11-28 12:00:01`; empty if nobody does.
    """

    path: str
    functions: tuple[FunctionInfo, ...]
    nbytes: int
    owner: str = ""

    @property
    def items(self) -> int:
        """Number of results of all functions."""
        return sum(function.items for function in self.functions)

    def _facts(self) -> CheckpointFacts:
        rows = [
            FunctionFacts(
                one.name, one.items, one.nbytes, one.python, _when(one.last_used), _words(one.options), one.current
            )
            for one in self.functions
        ]
        return CheckpointFacts(self.path, self.items, self.nbytes, self.owner, tuple(rows))

    def __repr__(self) -> str:
        return checkpoint_text(self._facts())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        facts = self._facts()
        return {"text/plain": checkpoint_text(facts), "text/html": checkpoint_html(facts)}


def checkpoint_info(path: str | os.PathLike[str]) -> CheckpointInfo:
    """What is in a checkpoint: functions, number of results, size, when, and who writes to it.

    Nothing runs, no result is read, and the call that writes to the file, in this process or another, goes on.

    Args:
        path: the file that a call was given as `checkpoint=`.

    Raises:
        CheckpointError: there is no such file, or it is no checkpoint.

    Examples:

        >>> import distmap
        >>> with distmap.Pool(2) as pool:
        ...     done = pool.map(len, ["a", "bb"], checkpoint="lengths.sqlite", progress=False)
        >>> info = distmap.checkpoint_info("lengths.sqlite")
        >>> info.items, info.functions[0].name
        (2, 'len')
    """
    path = os.fspath(path)
    with Reader(path) as reader:
        rows, owner = reader.functions(), reader.owner()
    shown: set[tuple[str, str, str]] = set()
    functions = []
    for row in rows:
        key = row.name, row.style, _words(row.options)
        functions.append(
            FunctionInfo(
                row.name,
                row.items,
                row.nbytes,
                _time(row.made),
                _time(row.used),
                row.python,
                row.options,
                row.versions,
                key not in shown,
            )
        )
        shown.add(key)
    who = f"process {owner.pid} on {owner.host}, since {_when(_time(owner.since))}" if owner is not None else ""
    return CheckpointInfo(path, tuple(functions), size_on_disk(path), who)


class Checkpoint:
    """A checkpoint to read: results of earlier calls, without running anything.

    It may be read while a call, in this process or another, writes to it. Results are unpickled when they are reached:
    as with any pickle, read only files that you trust.

    Args:
        path: the file that a call was given as `checkpoint=`.

    Raises:
        CheckpointError: there is no such file, or it is no checkpoint.

    Examples:

        >>> import distmap
        >>> with distmap.Pool(2) as pool:
        ...     done = pool.map(len, ["a", "bb"], checkpoint="lengths.sqlite", progress=False)
        >>> dict(distmap.Checkpoint("lengths.sqlite").results(len))
        {0: 1, 1: 2}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with Reader(self.path):
            pass

    def info(self) -> CheckpointInfo:
        """What is inside, as `checkpoint_info`."""
        return checkpoint_info(self.path)

    def results(self, fn: Any = None) -> Iterator[tuple[int, Any]]:
        """The results of a function that are there so far, one after the other, in the order of the items.

        Args:
            fn: the function, or its name; None: the only one that the checkpoint has. A function must be what the
                results were computed with. A name gives the results of the last version that was used.

        Returns:
            An iterator of pairs: the index of an item in the data of the call that computed it, and its result. Of
            `map_batches` an item is a batch. Where calls with different data had an item at one index, it is the last
            one's; the call itself finds results by their items, wherever these are.

        Raises:
            CheckpointError: there are no results of that function, or of what it does now; the message names what is
                there, or what changed. Later, while it is read: a result cannot be unpickled here.
        """
        with Reader(self.path) as reader:
            rows = [row for row in reader.functions() if row.items]
        return results(self.path, self._row(rows, fn).id)

    def _row(self, rows: list[FunctionRow], fn: Any) -> FunctionRow:
        names = sorted({row.name for row in rows})
        if not rows:
            raise CheckpointError(f"checkpoint {self.path} has no results yet")
        if fn is None:
            if len(names) > 1:
                raise CheckpointError(
                    f"checkpoint {self.path} has results of several functions ({', '.join(names)}): say of which one, "
                    f"such as results({names[0]!r})"
                )
            return rows[0]
        made = None if isinstance(fn, str) else fingerprint(fn)
        name = fn if made is None else made.name
        mine = [row for row in rows if row.name == name]
        if not mine:
            raise CheckpointError(
                f"checkpoint {self.path} has no results of {name}; it has those of {', '.join(names)}"
            )
        if made is None:
            return mine[0]
        same = [row for row in mine if made.parts.items() <= row.parts.items()]
        if not same:
            what = changes(mine[0].parts, made.parts)
            raise CheckpointError(
                f"checkpoint {self.path} has no results of {name} as it is now: {', '.join(what) or 'it changed'}. "
                f"results({name!r}) reads those that were computed before"
            )
        return same[0]

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return self.info()._repr_mimebundle_()


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds).astimezone()


def _when(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _words(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in sorted(options.items()) if value is not None)
