"""Waiting in tests for what no event tells: look again and again, up to a deadline. Knows nothing of distmap."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any


def until(happened: Callable[[], Any], seconds: float = 10.0, what: str = "it") -> Any:
    """Wait until `happened()` gives something true, and return that; fail after so many seconds."""
    end = time.monotonic() + seconds
    pause = 0.005
    while not (found := happened()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        threading.Event().wait(pause)
        pause = min(1.5 * pause, 0.05)  # what takes long is not sooner there for being asked often
    return found


async def eventually(happened: Callable[[], Any], seconds: float = 10.0) -> Any:
    """As `until`, while the loop of the caller goes on."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s")
        await asyncio.sleep(0.005)
    return found
