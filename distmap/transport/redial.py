"""How long to wait before dialling again.

Owns the order of the delays; used alike by a pool that dials workers and by a worker that dials its pool.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from distmap.core.limits import LIMITS


def delays() -> Iterator[float]:
    """Seconds to wait before the second, third, ... try, without end."""
    turn = 0
    while True:
        base = LIMITS.redial[min(turn, len(LIMITS.redial) - 1)]
        yield base * (1.0 + LIMITS.redial_jitter * random.random())
        turn += 1
