"""A function for maps that notes each of its runs, and holds later items until the test lets them go on.

Owns the files that it notes this in. It is a closure over plain text, so it travels to workers by value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

#: The first item that is held.
HELD_FROM = 4


class Noted:
    """`run` for a map; it gives the negative of its item."""

    def __init__(self, folder: Path) -> None:
        self._runs, self._gate = folder / "runs", folder / "gate"
        runs, gate, held_from = str(self._runs), str(self._gate), HELD_FROM

        def run(item: int) -> int:
            import os
            import time

            descriptor = os.open(runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, b"%d\n" % item)
            os.close(descriptor)
            deadline = time.monotonic() + 15
            while item >= held_from and not os.path.exists(gate):
                if time.monotonic() > deadline:
                    raise TimeoutError("the test never let this item go on")
                time.sleep(0.005)
            return -item

        self.run: Callable[[int], int] = run

    def runs(self) -> Counter[int]:
        """Item -> how often it ran."""
        return Counter(map(int, self._runs.read_text().split())) if self._runs.exists() else Counter()

    def is_held(self) -> bool:
        """Whether an item waits."""
        return max(self.runs(), default=0) >= HELD_FROM

    def go_on(self) -> None:
        """Hold nothing any more."""
        self._gate.touch()
