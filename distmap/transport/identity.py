"""What each side says of itself once the token is proved.

Owns the INFO dict: its keys and its limits. Knows no connection. Everything that comes from the other side is cleaned
here, before it is logged or shown.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from distmap._version import __version__
from distmap.errors import ProtocolError

#: Shown in full; the handshake compares the first two numbers: pickled functions hold bytecode, which only the same
#: minor version can run.
PYTHON = ".".join(map(str, sys.version_info[:3]))
NAME_CHARS = 80
MAX_TAGS = 16
TAG_CHARS = 40
MAX_SLOTS = 4096


def clean(value: object, limit: int = NAME_CHARS) -> str:
    """The text without control characters, cut to `limit`: what the other side says may end up on a terminal."""
    text = "".join(char for char in str(value)[: 4 * limit] if char.isprintable())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _named(value: object, otherwise: str, limit: int = NAME_CHARS) -> str:
    """As `clean`; `otherwise` if nothing printable is left."""
    return clean(value or "", limit).strip() or otherwise


def me() -> str:
    """Who this process is, for people: `user@host pid 123`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a passwd entry
        user = str(os.getuid()) if hasattr(os, "getuid") else "?"
    return f"{user}@{socket.gethostname()} pid {os.getpid()}"


def pool_info() -> dict[str, object]:
    """The INFO of a pool."""
    return {"role": "pool", "name": me(), "python": PYTHON, "distmap": __version__}


def worker_info(*, name: str, slots: int, tags: frozenset[str]) -> dict[str, object]:
    """The INFO of a worker."""
    return {
        "role": "worker",
        "name": name,
        "host": socket.gethostname(),
        "slots": slots,
        "tags": sorted(tags),
        "python": PYTHON,
        "distmap": __version__,
    }


def pool_name(info: Mapping[str, object]) -> str:
    """Who the pool is, from its INFO."""
    return _named(info.get("name"), "of unknown name")


@dataclass(frozen=True, slots=True)
class Peer:
    """A worker as it described itself; cleaned."""

    name: str
    host: str
    python: str
    slots: int
    tags: frozenset[str]


def read_worker(info: Mapping[str, object], address: str) -> Peer:
    """The INFO of a worker, checked. That it fits (token, Python, not busy) has been settled by the transport.

    Raises:
        ProtocolError: it offers something that makes no sense.
    """
    tags, slots = info.get("tags", []), info.get("slots")
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= MAX_SLOTS:
        raise ProtocolError(f"the worker at {address} offers {clean(slots, 20)} slots; expected 1 to {MAX_SLOTS}")
    if not isinstance(tags, list) or len(tags) > MAX_TAGS:
        raise ProtocolError(f"the worker at {address} sent tags that are not a list of at most {MAX_TAGS} names")
    return Peer(
        name=_named(info.get("name"), "worker"),
        host=_named(info.get("host"), "?"),
        python=_named(info.get("python"), "?", 16),
        slots=slots,
        tags=frozenset(clean(tag, TAG_CHARS) for tag in tags),
    )
