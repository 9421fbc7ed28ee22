"""What is remembered of a function between two jobs that call it: how long an item took, and how large chunks were.

Owns the memory and its bound. Must not know jobs: `state.py` keeps what a job has learnt, and gives it to the next job
of the same function, whose first chunks then need not be single items.
"""

from __future__ import annotations

from distmap.tasks._typing import NamedTuple


class KnownPace(NamedTuple):
    """What the last job of a function learnt."""

    #: Seconds per item.
    seconds: float
    #: Items of the largest chunk that a worker finished.
    largest: int
    #: Input bytes per item.
    item_bytes: float


class KnownPaces:
    """The pace of each function, of the last `most` that were called."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._paces: dict[str, KnownPace] = {}

    def get(self, function: str) -> KnownPace | None:
        """The pace of the function; None if it is not known (any more)."""
        return self._paces.get(function)

    def keep(self, function: str, pace: KnownPace) -> None:
        """Remember the pace of the function, in the place of what was known of it."""
        self._paces.pop(function, None)
        self._paces[function] = pace
        if len(self._paces) > self._most:
            del self._paces[next(iter(self._paces))]
