"""The options that every map-like call takes, with one meaning everywhere.

Owns their names, defaults and checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from distmap.core.events import OnError
from distmap.core.progress import Snapshot

Progress = bool | Callable[[Snapshot], object] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """Options of one map call, all keyword only.

    Attributes:
        chunksize: items sent together; None (default) lets chunks size themselves by measured time.
        progress: True shows a bar, False nothing, a callable gets immutable snapshots. None (default): a bar in a
            notebook, nothing elsewhere.
        desc: the title of the bar; default: the function's name.
        total: how many items there will be, for inputs that do not say.
        retries: how often an item that raised is run again; default 0.
        timeout: seconds one item may run; its process is then killed and the item fails with `ItemTimeout`.
        on_error: "raise" (default) raises the item's own exception; "return" puts the exception in its place;
            "skip" leaves the item out.
        tags: only workers that carry all of these run it.
        priority: larger goes first; jobs of equal priority share the slots fairly.
        seed: makes `distmap.rng()` inside the function reproducible: the same for an item whatever the chunks
            and workers.
        output: True (default) writes what the function prints, warns and logs here, in a notebook into the cell of
            this call, each line with its worker in front; beyond 200 kB/s lines are dropped and counted. "item" names
            the item too, False throws it away. Text only: `display(...)` inside the function is not shown. What a
            process that it starts, a fork or C code writes goes to the worker's own streams.
    """

    chunksize: int | None = None
    progress: Progress = None
    desc: str | None = None
    total: int | None = None
    retries: int = 0
    timeout: float | None = None
    on_error: OnError = "raise"
    tags: Iterable[str] = ()
    priority: int = 0
    seed: int | None = None
    output: bool | Literal["item"] = True

    def __post_init__(self) -> None:
        _whole("chunksize", self.chunksize, 1)
        _whole("total", self.total, 0)
        _whole("retries", self.retries, 0)
        _whole("seed", self.seed, 0)
        _whole("priority", self.priority, None)
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, or None for no limit; got {self.timeout!r}")
        if self.on_error not in ("raise", "return", "skip"):
            raise ValueError(f'on_error must be "raise", "return" or "skip"; got {self.on_error!r}')
        if isinstance(self.tags, str):
            raise TypeError(f"tags must be a collection of strings, such as [{self.tags!r}]; got the string itself")
        if not (self.progress is None or isinstance(self.progress, bool) or callable(self.progress)):
            raise TypeError(f"progress must be True, False or a callable that takes a snapshot; got {self.progress!r}")
        if not (isinstance(self.output, bool) or self.output == "item"):
            raise ValueError(f'output must be True, False or "item"; got {self.output!r}')

    @classmethod
    def of(cls, options: dict[str, Any]) -> MapOptions:
        """Options from keywords; an unknown one is named, with what there is."""
        known = cls.__dataclass_fields__
        for name in options:
            if name not in known:
                raise TypeError(f"unknown option {name!r}; the options are {', '.join(known)}")
        return cls(**options)


def _whole(name: str, value: Any, least: int | None) -> None:
    if value is None:
        return
    try:
        number = value.__index__()
    except AttributeError:
        raise TypeError(f"{name} must be a whole number; got {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}; got {value!r}")
