"""What the options of `distmap-worker` may be: from text to value, or a sentence that argparse prints.

Owns these values only. It must not know what the options are for.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from distmap.core.limits import LIMITS
from distmap.transport.proxies import has_password

#: What `--slots gpu` stands for until they are counted.
GPU = 0


def proxy(url: str) -> str:
    """The URL of a proxy."""
    if has_password(url):
        raise argparse.ArgumentTypeError(
            "it holds a user name or password, and a command line can be read by every user of this host (ps): set "
            "HTTPS_PROXY (ALL_PROXY for SOCKS) to that address instead"
        )
    return url


def _within(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = kind(low) - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {text!r}")
        return number

    return parse


def duration(text: str) -> float:
    """Seconds of "90", "10m" or "2h"; 0 for "off"."""
    if text == "off":
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or not (length := float(found[1]) * {"m": 60, "h": 3600}.get(found[2], 1)):
        raise argparse.ArgumentTypeError(f"expected a time such as 30, 10m or 2h, or off; got {text!r}")
    return length


def slots(text: str) -> float:
    """A number of slots, or that each GPU has one."""
    return GPU if text == "gpu" else _a_number(text)


def variable(text: str) -> tuple[str, str]:
    """A variable and its value."""
    name, between, value = text.partition("=")
    if not name or not between or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    if name == "DISTMAP_TOKEN":  # the value is not repeated
        raise argparse.ArgumentTypeError("DISTMAP_TOKEN is not for task processes, nor for a command line")
    return name, value


_a_number = _within(int, 1, LIMITS.worker_slots)
#: The number of a port.
port = _within(int, 0, 65535)
#: A number of seconds.
seconds = _within(float, 0, 1e6)
