"""INFO: what each side sends about itself once the token is proved.

Owns the INFO dict: its keys, its limits, and which two of them fit together. It must not know connections. Texts of
the other side are cleaned here, before they are logged or shown.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distmap._version import __version__
from distmap.core.limits import LIMITS
from distmap.errors import ConnectError, DistmapError, ProtocolError, VersionMismatch, WorkerBusy
from distmap.wire.handshake import Role, sanitized

#: Shown in full. `refusal` compares the first two numbers: pickled functions hold bytecode, which only the same minor
#: version can run.
PYTHON = ".".join(map(str, sys.version_info[:3]))

#: Characters of the id of a device, for people: the beginning of a UUID tells it from others.
_ID_CHARS = 16
#: Characters of what a launcher calls a start: the id of a job of a batch system.
_LAUNCH_CHARS = 40
#: Why a connection is refused whose side has given it up before it was heard.
OUTDATED = "this session has gone on over a later connection"


def _named(value: object, otherwise: str, limit: int = LIMITS.name_chars) -> str:
    """As `sanitized`; `otherwise` if nothing printable is left."""
    return sanitized(str(value or ""), limit).strip() or otherwise


def me() -> str:
    """The name of this process, for people: `user@host pid 123`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a passwd entry
        user = str(os.getuid()) if hasattr(os, "getuid") else "?"
    return f"{user}@{socket.gethostname()} pid {os.getpid()}"


def pool_info() -> dict[str, object]:
    """The INFO of a pool."""
    return {"role": "pool", "name": me(), "python": PYTHON, "distmap": __version__}


def worker_info(
    *, name: str, slots: int, tags: frozenset[str], devices: Sequence[tuple[str, str]] = (), launch: str = ""
) -> dict[str, object]:
    """The INFO of a worker.

    Args:
        name, slots, tags: Of its command line.
        devices: For each slot the id and the name of its GPU, if each has one.
        launch: What a pool's launcher calls its start; empty: somebody else started it.
    """
    before, named = "", []
    for id, called in devices[: LIMITS.named_devices]:
        # The same name again is left out: all of the INFO has to fit into one small message.
        named.append([id[:_ID_CHARS], "" if called == before else called[: LIMITS.device_chars]])
        before = called
    return {
        "role": "worker",
        "name": name,
        "host": socket.gethostname(),
        "slots": slots,
        "tags": sorted(tags),
        **({"devices": named} if named else {}),
        **({"launch": launch[:_LAUNCH_CHARS]} if launch else {}),
        "python": PYTHON,
        "distmap": __version__,
    }


def check_info(role: Role) -> dict[str, object]:
    """The INFO of a side that only checks the way: it takes nobody, and nobody has to take it."""
    return {"role": role, "name": me(), "python": PYTHON, "distmap": __version__, "check": True}


def is_check(info: Mapping[str, object]) -> bool:
    """Whether the side with that INFO only checks the way."""
    return info.get("check") is True


def checker(info: Mapping[str, object]) -> str:
    """Who checks, for the log of the other side."""
    return _name(info)


def described(info: Mapping[str, object]) -> dict[str, object]:
    """The INFO of the other side as it is shown: cleaned texts, and the slots of a worker."""
    shown: dict[str, object] = {key: _text(info, key) or "?" for key in ("role", "name", "python", "distmap")}
    slots = info.get("slots")
    return {**shown, "slots": slots} if isinstance(slots, int) else shown


def pool_name(info: Mapping[str, object]) -> str:
    """The name of the pool, from its INFO."""
    return _named(info.get("name"), "of unknown name")


@dataclass(frozen=True, slots=True)
class Peer:
    """The INFO of a worker, checked and cleaned."""

    name: str
    host: str
    python: str
    slots: int
    tags: frozenset[str]
    #: Id and name of each slot's GPU; empty if slots have none.
    devices: tuple[tuple[str, str], ...] = ()
    #: What a launcher calls its start; empty: none has started it.
    launch: str = ""


def read_worker(info: Mapping[str, object], address: str) -> Peer:
    """Check the INFO of a worker. `refusal` has made sure before that it fits.

    Raises:
        ProtocolError: Slots, tags or devices are outside the limits.
    """
    tags, slots = info.get("tags", []), info.get("slots")
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= LIMITS.worker_slots:
        raise ProtocolError(
            f"the worker at {address} offers {sanitized(str(slots), 20)} slots; expected 1 to {LIMITS.worker_slots}"
        )
    if not isinstance(tags, list) or len(tags) > LIMITS.tags:
        raise ProtocolError(f"the worker at {address} sent tags that are not a list of at most {LIMITS.tags} names")
    return Peer(
        name=_named(info.get("name"), "worker"),
        host=_named(info.get("host"), "?"),
        python=_named(info.get("python"), "?", 16),
        slots=slots,
        tags=frozenset(sanitized(str(tag), LIMITS.tag_chars) for tag in tags),
        devices=_devices(info.get("devices", []), slots, address),
        launch=_text(info, "launch")[:_LAUNCH_CHARS],
    )


def _devices(told: object, slots: int, address: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(told, list) or len(told) > min(slots, LIMITS.named_devices):
        raise ProtocolError(f"the worker at {address} sent devices that are not a list of at most one for each slot")
    devices, name = [], ""
    for one in told:
        if not isinstance(one, list) or len(one) != 2:
            raise ProtocolError(f"the worker at {address} sent a device that is no pair of id and name")
        name = sanitized(str(one[1]), LIMITS.device_chars) or name
        devices.append((sanitized(str(one[0]), _ID_CHARS), name))
    return tuple(devices)


def refusal(ours: Mapping[str, object], theirs: Mapping[str, object], url: str = "") -> DistmapError | None:
    """Why two sides that trust each other still cannot work together, from the INFO of both; None if they can.

    Both sides make the same sentence. Either INFO may hold a reason under "refused".
    """
    for refusing, refused in ((theirs, ours), (ours, theirs)):
        reason = refusing.get("refused")
        if reason == "busy":
            holder = _text(refusing, "by") or "another pool"
            return WorkerBusy(
                f"{_name(refusing)}{_at(url)} is busy: it serves {holder}, and one worker serves one pool at a time"
            )
        if reason is not None and reason != "version":
            return ConnectError(f"{_name(refusing)}{_at(url)} refused {_name(refused)}: {_text(refusing, 'refused')}")
    mine, yours = _minor(ours), _minor(theirs)
    if mine != yours:
        # Sorted, so that both sides say the same.
        first, second = sorted([f"{_name(ours)} runs Python {mine}", f"{_name(theirs)} runs Python {yours}"])
        return VersionMismatch(
            f"{first} and {second}{_at(url)}: functions and data travel only between equal minor versions"
        )
    if "version" in (ours.get("refused"), theirs.get("refused")):
        return VersionMismatch(
            f"{_name(theirs)}{_at(url)} runs another version of distmap; install the same on both sides"
        )
    return None


def _at(url: str) -> str:
    return f" ({url})" if url else ""


def _name(info: Mapping[str, object]) -> str:
    role = "worker" if info.get("slots") is not None else "pool"
    return f"{_text(info, 'role') or role} {_text(info, 'name')}".strip()


def _minor(info: Mapping[str, object]) -> str:
    return ".".join(_text(info, "python").split(".")[:2])


def _text(info: Mapping[str, object], key: str) -> str:
    value = info.get(key)
    return sanitized(value) if isinstance(value, str) else ""
