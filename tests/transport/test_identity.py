"""Tests of distmap/transport/identity.py."""

from __future__ import annotations

import json
import os

import pytest

from distmap.errors import ProtocolError
from distmap.transport.identity import MAX_TAGS, PYTHON, clean, me, pool_info, pool_name, read_worker, worker_info

GOOD = {"name": "gpu1", "host": "lab", "python": "3.13", "slots": 4, "tags": ["gpu", "big"]}


def test_clean_drops_what_a_terminal_would_obey() -> None:
    """Escape sequences and line breaks of the other side do not reach a terminal, and long texts are cut."""
    assert clean("\x1b[31mred\n\u202e") == "[31mred"
    assert clean("x" * 500, 10) == "x" * 9 + "…"


def test_me_names_user_host_and_process() -> None:
    """A person can tell from it whose process it is."""
    assert "@" in me()
    assert me().endswith(f"pid {os.getpid()}")


def test_infos_fit_into_the_handshake() -> None:
    """Both INFOs are plain JSON and carry what the other side decides on."""
    info = worker_info(name="gpu1", slots=3, tags=frozenset({"b", "a"}))
    assert json.loads(json.dumps(info)) == info
    assert info["tags"] == ["a", "b"]
    assert pool_info()["python"] == info["python"] == PYTHON
    assert pool_name(pool_info()) == me()


def test_read_worker_gives_what_it_offers() -> None:
    """A sensible INFO is taken as it is."""
    peer = read_worker(GOOD, "wss://lab:1")
    assert (peer.name, peer.host, peer.python, peer.slots) == ("gpu1", "lab", "3.13", 4)
    assert peer.tags == {"gpu", "big"}


@pytest.mark.parametrize("slots", [0, -1, 10**6, True, "4", None, 2.0])
def test_read_worker_refuses_senseless_slots(slots: object) -> None:
    """A worker that offers no sensible number of slots is refused by name."""
    with pytest.raises(ProtocolError, match="wss://lab:1"):
        read_worker({**GOOD, "slots": slots}, "wss://lab:1")


@pytest.mark.parametrize("tags", ["gpu", {"gpu": 1}, ["t"] * (MAX_TAGS + 1)])
def test_read_worker_refuses_senseless_tags(tags: object) -> None:
    """Tags that are not a short list are refused."""
    with pytest.raises(ProtocolError, match="tags"):
        read_worker({**GOOD, "tags": tags}, "wss://lab:1")


def test_missing_names_have_a_stand_in() -> None:
    """A peer that does not name itself, or not by anything printable, can still be spoken of."""
    assert pool_name({}) == pool_name({"name": "\u200b"}) == pool_name({"name": " "}) == "of unknown name"
    unprintable = read_worker({"slots": 1, "name": "\u200b", "host": "\n"}, "x")
    assert (unprintable.name, unprintable.host) == ("worker", "?")
    peer = read_worker({"slots": 1}, "x")
    assert (peer.name, peer.host, peer.python, peer.tags) == ("worker", "?", "?", frozenset())
