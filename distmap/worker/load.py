"""How busy this host is, for the heartbeats.

Owns the two figures (cpu and memory, each a fraction of the host). Never blocks.
"""

from __future__ import annotations

import psutil


class Load:
    """Reads the load of the host; `cpu` is the mean since the reading before."""

    def __init__(self) -> None:
        # The first call has no interval to measure and returns 0.0; it starts the first interval.
        psutil.cpu_percent(interval=None)

    def read(self) -> tuple[float, float]:
        """(cpu, memory), each 0 to 1."""
        cpu = float(psutil.cpu_percent(interval=None)) / 100.0
        memory = float(psutil.virtual_memory().percent) / 100.0
        return min(1.0, max(0.0, cpu)), min(1.0, max(0.0, memory))
