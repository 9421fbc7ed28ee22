"""How busy this host is, for the heartbeats.

Owns the figures: cpu and memory, each a fraction of the host, and the same of the GPUs that slots have. Never blocks.
"""

from __future__ import annotations

import psutil

from distmap.slots.devices import Devices, DeviceWatch


class Load:
    """Reads the load of the host; `cpu` is the mean since the reading before.

    Args:
        devices: The GPUs of the slots, which are watched from now on until `close`.
    """

    def __init__(self, devices: Devices | None = None) -> None:
        # The first call has no interval to measure and returns 0.0; it starts the first interval.
        psutil.cpu_percent(interval=None)
        self._watch = None if devices is None else DeviceWatch(devices)

    def read(self) -> tuple[float, float]:
        """(cpu, memory), each 0 to 1."""
        cpu = float(psutil.cpu_percent(interval=None)) / 100.0
        memory = float(psutil.virtual_memory().percent) / 100.0
        return min(1.0, max(0.0, cpu)), min(1.0, max(0.0, memory))

    @property
    def devices(self) -> tuple[tuple[float, float], ...]:
        """Load and memory in use of each slot's GPU at the last look; negative: not known."""
        return () if self._watch is None else self._watch.latest

    async def close(self) -> None:
        """Look no more."""
        if self._watch is not None:
            await self._watch.close()
