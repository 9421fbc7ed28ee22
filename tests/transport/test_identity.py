"""Tests of distmap/transport/identity.py."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from distmap.core.limits import LIMITS
from distmap.errors import ConnectError, ProtocolError, VersionMismatch, WorkerBusy
from distmap.transport.identity import (
    PYTHON,
    check_info,
    checker,
    described,
    is_check,
    me,
    pool_info,
    pool_name,
    read_worker,
    refusal,
    worker_info,
)

GOOD = {"name": "gpu1", "host": "lab", "python": "3.13", "slots": 4, "tags": ["gpu", "big"]}
INFO_L: dict[str, object] = {"name": "gpu1", "slots": 2, "python": "3.13.1"}
INFO_D: dict[str, object] = {"name": "notebook", "python": "3.13.7"}


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


@pytest.mark.parametrize("tags", ["gpu", {"gpu": 1}, ["t"] * (LIMITS.tags + 1)])
def test_read_worker_refuses_senseless_tags(tags: object) -> None:
    """Tags that are not a short list are refused."""
    with pytest.raises(ProtocolError, match="tags"):
        read_worker({**GOOD, "tags": tags}, "wss://lab:1")


def test_devices_are_named_in_few_bytes() -> None:
    """Fifty parts of GPUs fit into the small message of the handshake: long ids are cut, a name is said once."""
    parts = [(f"MIG-{n:08x}-d33d-2b2c-524d-9e3d8d2b8a77", "MIG of NVIDIA A100-SXM4-40GB") for n in range(56)]
    info = worker_info(name="gpu1", slots=56, tags=frozenset({"gpu"}), devices=parts)
    assert len(json.dumps(info)) < LIMITS.handshake_bytes / 2
    told = read_worker(info, "wss://lab:1").devices
    assert told[0] == ("MIG-00000000-d33", "MIG of NVIDIA A100-SXM4-40GB")
    assert told[55] == ("MIG-00000037-d33", "MIG of NVIDIA A100-SXM4-40GB")
    assert read_worker(GOOD, "wss://lab:1").devices == ()


@pytest.mark.parametrize("devices", ["0", [["0"]], ["0"], [["0", "x"]] * 5])
def test_read_worker_refuses_senseless_devices(devices: object) -> None:
    """Devices that are not pairs of id and name, at most one for each slot, are refused."""
    with pytest.raises(ProtocolError, match="device"):
        read_worker({**GOOD, "devices": devices}, "wss://lab:1")


def test_missing_names_have_a_stand_in() -> None:
    """A peer that does not name itself, or not by anything printable, can still be spoken of."""
    assert pool_name({}) == pool_name({"name": "\u200b"}) == pool_name({"name": " "}) == "of unknown name"
    unprintable = read_worker({"slots": 1, "name": "\u200b", "host": "\n"}, "x")
    assert (unprintable.name, unprintable.host) == ("worker", "?")
    peer = read_worker({"slots": 1}, "x")
    assert (peer.name, peer.host, peer.python, peer.tags) == ("worker", "?", "?", frozenset())


# --- who fits whom ---------------------------------------------------------------------------------------------------


def test_sides_that_fit_have_no_refusal() -> None:
    """Equal minor versions of Python, nobody busy."""
    assert refusal(INFO_L, INFO_D) is None
    assert refusal(INFO_D, INFO_L, "wss://gpu1:8786") is None


def test_busy_names_the_holder_on_both_sides() -> None:
    """Worker and pool say the same, the pool with the URL."""
    busy = {**INFO_L, "refused": "busy", "by": "nb@laptop"}
    ours, theirs = refusal(busy, INFO_D), refusal(INFO_D, busy, "wss://gpu1:8786")
    assert isinstance(ours, WorkerBusy)
    assert isinstance(theirs, WorkerBusy)
    assert "worker gpu1 is busy: it serves nb@laptop" in str(ours)
    assert "worker gpu1 (wss://gpu1:8786) is busy: it serves nb@laptop" in str(theirs)
    assert "another pool" in str(refusal(INFO_D, {"refused": "busy"}))


def test_python_versions_name_both_sides_alike() -> None:
    """One sentence with both minor versions, the same on both sides."""
    old = {**INFO_L, "python": "3.11.4"}
    problem = refusal(old, INFO_D)
    assert isinstance(problem, VersionMismatch)
    assert "notebook runs Python 3.13" in str(problem)
    assert "gpu1 runs Python 3.11" in str(problem)
    assert str(refusal(INFO_D, old)) == str(problem)


def test_other_refusals_are_passed_on() -> None:
    """A refusal for a reason this side does not know is told as it is."""
    problem = refusal(INFO_D, {**INFO_L, "refused": "draining"}, "wss://gpu1:1")
    assert isinstance(problem, ConnectError)
    assert str(problem) == "worker gpu1 (wss://gpu1:1) refused pool notebook: draining"


def test_a_version_refusal_without_differing_python() -> None:
    """The other side found the versions unfit for a reason of its own."""
    problem = refusal(INFO_D, {**INFO_L, "refused": "version"})
    assert isinstance(problem, VersionMismatch)
    assert "another version of distmap" in str(problem)


def test_names_of_strangers_are_made_harmless() -> None:
    """Control characters are dropped, long names cut, and things that are no text left out."""
    info: dict[str, Any] = {"name": "\x1b[31m" + "x" * 500, "slots": 1, "refused": "busy", "by": 7}
    text = str(refusal(INFO_D, info))
    assert "\x1b" not in text
    assert "another pool" in text
    assert len(text) < 400


def test_the_info_of_a_check_names_it() -> None:
    """It is known by its INFO alone, in either role; who asks is named in the log of the other side."""
    for role in ("pool", "worker"):
        info = check_info(role)
        assert is_check(json.loads(json.dumps(info)))
        assert checker(info) == f"{role} {me()}"
    assert not is_check(pool_info())
    assert not is_check({"check": "yes"})


def test_what_the_other_side_says_is_cleaned() -> None:
    """Texts of the other side are shown without control characters; what it does not say is a question mark."""
    assert described({"role": "pool", "name": "a\x1bb", "python": 3}) == {
        "role": "pool", "name": "ab", "python": "?", "distmap": "?",
    }  # fmt: skip
    assert described({"slots": 4, "role": "worker"})["slots"] == 4
