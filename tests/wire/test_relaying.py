"""The texts between a relay and those who meet there."""

from __future__ import annotations

import json

import pytest

from distmap.core.relay_limits import RELAY
from distmap.errors import ProtocolError
from distmap.wire.relaying import (
    REFUSALS,
    WAITING,
    Join,
    Notice,
    read_join,
    read_notice,
    write_join,
    write_paired,
    write_refused,
)

ROOM, POOL = "0123456789abcdef" * 2, "f" * 32


@pytest.mark.parametrize("join", [Join(ROOM, "worker"), Join(ROOM, "pool", POOL)])
def test_a_guest_names_its_room_and_side(join: Join) -> None:
    """What is written is read; a worker says nothing of a pool."""
    assert read_join(write_join(join)) == join
    assert ("pool" in json.loads(write_join(join))) is (join.side == "pool")


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        None,
        "",
        "nonsense",
        "[]",
        "{}",
        json.dumps({"room": ROOM}),
        json.dumps({"room": ROOM, "side": "relay"}),
        json.dumps({"room": ROOM, "side": "pool"}),
        json.dumps({"room": ROOM, "side": "pool", "pool": "short"}),
        json.dumps({"room": ROOM.upper(), "side": "worker"}),
        json.dumps({"room": 7, "side": "worker"}),
        json.dumps({"room": ROOM, "side": ["worker"]}),
        json.dumps({"room": ROOM, "side": "worker", "more": "x" * RELAY.text}),
        "[" * RELAY.text,
    ],
)
def test_what_is_no_guest(text: object) -> None:
    """Anything else than a room and a side is refused."""
    with pytest.raises(ProtocolError):
        read_join(text)


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        (WAITING, Notice("waiting")),
        (write_paired(3), Notice("paired", workers=3)),
        (write_paired(-3), Notice("paired", workers=0)),
        (write_refused("taken"), Notice("refused", reason="taken")),
        (write_refused("of a later version"), Notice("refused", reason="of a later version")),
    ],
)
def test_what_the_relay_says(text: str, notice: Notice) -> None:
    """A guest waits, is paired, or is refused."""
    assert read_notice(text) == notice


@pytest.mark.parametrize("text", ["{}", '{"waiting": 1}', '{"paired": true}', '{"paired": true, "workers": "3"}', b""])
def test_what_is_no_relay(text: object) -> None:
    """Anything else comes from something else."""
    with pytest.raises(ProtocolError):
        read_notice(text)


def test_each_refusal_says_what_to_do_or_whose_limit_it_is() -> None:
    """A reason that the relay gives is a sentence for people."""
    assert "?room=NAME" in REFUSALS["taken"]
    assert "--room-connections" in REFUSALS["full"]
    assert "--rooms" in REFUSALS["rooms"]
    assert "install the same distmap" in REFUSALS["join"]
