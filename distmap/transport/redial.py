"""How long to wait before dialling again.

Owns the delays and nothing else; used alike by a pool that dials workers and by a worker that dials its pool.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

#: The first tries come quickly, so that a restarted peer is found while a person looks on; the last one repeats.
DELAYS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: Up to so much is added to each, so that many workers do not knock in step.
JITTER = 0.25


def delays() -> Iterator[float]:
    """Seconds to wait before the second, third, ... try, for ever."""
    turn = 0
    while True:
        base = DELAYS[min(turn, len(DELAYS) - 1)]
        yield base * (1.0 + JITTER * random.random())
        turn += 1
