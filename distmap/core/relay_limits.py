"""Numbers that bound a relay, and the two sides that meet there; `limits.py` has those of a pool.

Owns limits and time constants only. Seconds and bytes throughout.
"""

from __future__ import annotations

from distmap.tasks._typing import NamedTuple


class RelayLimits(NamedTuple):
    #: Connections of a pool that wait at its relay for the next worker.
    spares: int = 4
    #: The same while more workers wait there, as after a restart of the relay. Those without proof are counted too.
    spares_most: int = 64
    #: Seconds between two signs of life to a connection that waits: nginx cuts one that is idle for 60 s.
    beat: float = 20.0
    #: Seconds of silence after which the relay and those who wait there give each other up.
    silence: float = 50.0
    #: Seconds that a worker waits at the relay for its pool, before it dials again.
    wait: float = 60.0
    #: Longest pause between two dials of a pool to its relay: its workers come back through it.
    redial: float = 1.0
    #: Seconds in which a connection to the relay names its room.
    join: float = 10.0
    #: Characters of a text to or from the relay.
    text: int = 1024
    #: Characters of the name of a room.
    room_chars: int = 64
    #: Rooms of a relay (`--rooms`).
    rooms: int = 256
    #: Connections to a relay (`--connections`): two for each worker, and those that wait.
    connections: int = 8192
    #: Connections in one room (`--room-connections`).
    room_connections: int = 4096
    #: Bytes a second that a relay takes from one connection (`--rate`): what a line of one gigabit carries.
    rate: float = 125e6
    #: Seconds of that rate that may come at once.
    burst: float = 0.25
    #: Messages of a connection, of at most `websocket_bytes`, that a relay holds; then it reads no more of them.
    messages: int = 4
    #: Seconds that a message waits at the relay for an other side that takes nothing; as long as a worker waits for
    #: a pool that is connected and silent.
    stall: float = 600.0


RELAY = RelayLimits()
