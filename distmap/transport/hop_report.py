"""What a check of the way to a worker or pool has found: one result for each hop.

Owns the names of the hops, their order, and the text that people read. It must not know how a hop is tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

#: The hops of the way, in the order in which they are tried.
HopName = Literal[
    "name", "TCP", "proxy", "TLS", "HTTP upgrade", "subprotocol", "relay", "hello", "inner TLS", "token", "Python",
    "distmap", "round trip", "bandwidth",
]  # fmt: skip
HOPS: tuple[HopName, ...] = (
    "name", "TCP", "proxy", "TLS", "HTTP upgrade", "subprotocol", "relay", "hello", "inner TLS", "token", "Python",
    "distmap", "round trip", "bandwidth",
)  # fmt: skip


class OnHop(Protocol):
    """Is called for each hop that a connection passes on its way, with what was found there."""

    def __call__(self, name: HopName, /, **found: Any) -> None:
        """The hop of that name is passed. What is given with it is said where it is passed."""


def unwatched(name: HopName, /, **found: Any) -> None:
    """For a connection whose hops nobody wants to know of."""


HopState = Literal["ok", "not needed", "failed", "not tried"]

#: How a line begins.
MARKS: Mapping[HopState, str] = {"ok": "ok", "not needed": "-", "failed": "x", "not tried": "."}


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop of the way.

    Attributes:
        name: such as `"TCP"`; the names are in `HOPS`.
        state: `"ok"`, `"not needed"` (there is no such hop on this way), `"failed"`, or `"not tried"` (an earlier one
            failed).
        words: what was found there, in words; of a failed hop what is wrong, and what to do.
        facts: the same for programs; which there are is in the reference.
    """

    name: HopName
    state: HopState
    words: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class HopReport:
    """What a check has found. Shows itself as a text of one line for each hop.

    Attributes:
        url: what was checked.
        hops: all hops, in order.
        summary: one sentence.
        peer: what the other side says of itself: `name`, `role`, `python`, `distmap`, and `slots` of a worker. Empty
            if it was not reached, or did not prove the token.
        serves: whom the worker serves now; empty if nobody, or if a pool was checked.
    """

    url: str
    hops: tuple[Hop, ...]
    summary: str
    peer: Mapping[str, object] = field(default_factory=dict)
    serves: str = ""

    @property
    def ok(self) -> bool:
        """Whether every hop is passed. A worker that serves a pool is fine."""
        return self.failed is None

    @property
    def failed(self) -> Hop | None:
        """The hop that failed; None if none did."""
        return next((hop for hop in self.hops if hop.state == "failed"), None)

    def __getitem__(self, name: str) -> Hop:
        """The hop of that name, such as `check["TLS"]`."""
        for hop in self.hops:
            if hop.name == name:
                return hop
        raise KeyError(f"there is no hop {name!r}; there are {', '.join(HOPS)}")

    def __repr__(self) -> str:
        return "\n".join([self.url, *[f"  {line_of(hop)}" for hop in self.hops], self.summary])


def line_of(hop: Hop) -> str:
    """A hop as one line: mark, name, words."""
    return f"{MARKS[hop.state]:<3}{hop.name:<14}{hop.words or hop.state}"


def rate_words(rate: float) -> str:
    """Bytes per second, for people."""
    for unit, size in (("GB/s", 1e9), ("MB/s", 1e6)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}"
    return f"{rate / 1e3:.3g} kB/s"


def time_words(seconds: float) -> str:
    """A short time, for people."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
