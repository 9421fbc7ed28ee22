"""The options that every map-like call takes, with one meaning everywhere.

Owns their names and defaults; `checks.py` has the rules for their values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from distmap.calls.checks import checked, function
from distmap.core.events import OnError
from distmap.core.progress import ProgressOption
from distmap.tasks._records import Record


class MapOptions(Record, frozen=True, kw_only=True):
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
        checkpoint: path of a file in which finished items are kept. Run the call again, in a new kernel too, and it
            goes on where it was: results of items that the file knows are taken from there. An item is known by its
            content and the behaviour of the function. Opening a checkpoint that somebody else made can run their code,
            as with any pickle. See the guide on checkpoints.
        on_change: what to do if the function, `seed=` or items are not what the results in the checkpoint were made
            with: "error" (default) raises `CheckpointChanged`, which names what changed; "restart" computes anew;
            "keep" takes the old results of the function all the same, and computes only items that changed.
    """

    chunksize: int | None = None
    progress: ProgressOption = None
    desc: str | None = None
    total: int | None = None
    retries: int = 0
    timeout: float | None = None
    on_error: OnError = "raise"
    tags: Iterable[str] = ()
    priority: int = 0
    seed: int | None = None
    output: bool | Literal["item"] = True
    checkpoint: str | None = None
    on_change: Literal["error", "restart", "keep"] = "error"

    def __post_init__(self) -> None:
        for name, default in self._defaults.items():
            value = getattr(self, name)
            if value is not default:
                object.__setattr__(self, name, checked(name, value))
        if callable(self.progress):
            function("progress", self.progress)

    @classmethod
    def of(cls, options: dict[str, Any]) -> MapOptions:
        """Options from keywords; an unknown one is named, with what there is."""
        known = cls._fields
        for name in options:
            if name not in known:
                raise TypeError(f"unknown option {name!r}; the options are {', '.join(known)}")
        return cls(**options)
