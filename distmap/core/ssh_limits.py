"""Numbers that bound logins by SSH, at which workers are reached or started; `limits.py` has those of a pool.

Owns limits and time constants only. Seconds and bytes throughout.
"""

from __future__ import annotations

from distmap.tasks._typing import NamedTuple


class SSHLimits(NamedTuple):
    #: Seconds that ssh tries to reach the host.
    connect: float = 10.0
    #: Seconds for a login and the start of a worker there. The dials of the pool meanwhile say that it is under way.
    login: float = 30.0
    #: Seconds for the same if distmap is installed there.
    install: float = 600.0
    #: Seconds for which the login of a worker waits on a login node for its pool; then another one does.
    pool_wait: float = 60.0
    #: Bytes that a login shell may print by itself before it runs a command.
    noise_bytes: int = 64 << 10
    #: Seconds that ssh has to end its jump hosts and itself.
    end: float = 2.0


SSH_LIMITS = SSHLimits()
