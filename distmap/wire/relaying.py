"""What a relay and those who meet there say to each other, before it forwards.

Owns the texts of both sides. It must not know sockets, the token (a room is derived from it elsewhere), or anything of
what is forwarded: that is binary, so it is told from these texts, which can still be on their way when it begins.

    guest -> relay   {"room": ..., "side": "pool", "pool": ...} or {"room": ..., "side": "worker"}
    relay -> guest   {"waiting": true}     at once, and every `beat` until somebody comes: a sign of life, which
    guest -> relay   {"waiting": true}     is answered
    relay -> guest   {"paired": true, "workers": 3}     from now on, what it receives was sent by the other side
    relay -> guest   {"refused": "taken"}               and the end of the connection
"""

from __future__ import annotations

import json
import re
from typing import Literal, cast

from distmap.core.relay_limits import RELAY
from distmap.errors import ProtocolError
from distmap.tasks._typing import NamedTuple

#: Path and subprotocol of the HTTP upgrade.
PATH = "/distmap-relay/1"
SUBPROTOCOL = "distmap-relay.1"

Side = Literal["pool", "worker"]

#: A room, and what tells one pool from another: 32 hexadecimal digits.
_ID = re.compile(r"[0-9a-f]{32}")

#: Why a guest is refused -> the sentence about it; the address of the relay stands before it.
REFUSALS = {
    "taken": "another pool with this token uses the relay; give each pool a room of its own, here and at its workers: "
    "end both addresses with ?room=NAME",
    "full": "the room has as many connections as the relay allows (distmap-relay --room-connections)",
    "rooms": "the relay has as many rooms as it allows (distmap-relay --rooms)",
    "join": "the relay did not understand this side; install the same distmap on both",
}


class Join(NamedTuple):
    """The first text of a guest."""

    #: Both sides derive it from the token and the name of the room.
    room: str
    side: Side
    #: Of a pool: the same in all its connections, another one for each pool.
    pool: str = ""


class Notice(NamedTuple):
    """A text of the relay."""

    kind: Literal["waiting", "paired", "refused"]
    #: "paired": how many workers wait in the room besides.
    workers: int = 0
    #: "refused": a key of REFUSALS, or what a later version of the relay says.
    reason: str = ""


WAITING = json.dumps({"waiting": True})


def write_join(join: Join) -> str:
    """The text of it."""
    pool = {"pool": join.pool} if join.side == "pool" else {}
    return json.dumps({"room": join.room, "side": join.side, **pool})


def read_join(text: object) -> Join:
    """What a guest wants; ProtocolError if that cannot be told."""
    fields = _fields(text)
    room, side, pool = fields.get("room"), fields.get("side"), fields.get("pool", "")
    named = [room, pool] if side == "pool" else [room]
    if side not in ("pool", "worker") or not all(isinstance(name, str) and _ID.fullmatch(name) for name in named):
        raise ProtocolError("a guest names its room and its side first")
    return Join(cast(str, room), side, cast(str, pool) if side == "pool" else "")


def write_paired(workers: int) -> str:
    """Tell a guest that somebody is there; so many workers wait besides."""
    return json.dumps({"paired": True, "workers": workers})


def write_refused(reason: str) -> str:
    """Tell a guest why not: a key of REFUSALS."""
    return json.dumps({"refused": reason})


def read_notice(text: object) -> Notice:
    """What the relay says; ProtocolError if that cannot be told."""
    match _fields(text):
        case {"refused": str(reason)}:
            return Notice("refused", reason=reason)
        case {"paired": True, "workers": int(workers)}:
            return Notice("paired", workers=max(0, workers))
        case {"waiting": True}:
            return Notice("waiting")
    raise ProtocolError("what answers is no relay of distmap, or one of another version")


def _fields(text: object) -> dict[str, object]:
    if not isinstance(text, str) or len(text) > RELAY.text:
        raise ProtocolError("a short text was expected")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("what came is no text of a relay") from error
    if not isinstance(fields, dict):
        raise ProtocolError("what came is no text of a relay")
    return fields
