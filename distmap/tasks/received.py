"""What a task process received from the process that owns it: secrets and descriptors of what the two share.

Owns the table, and closes a descriptor that is no longer needed. This module only stores them. `shared.py` uses them;
it imports much of multiprocessing.
"""

from __future__ import annotations

import os

#: By digest, a secret, or the number of a descriptor.
received: dict[bytes, bytes] = {}


def keep(digest: bytes, data: bytes) -> None:
    """A secret or a descriptor has arrived."""
    received[digest] = data


def forget(digest: bytes, kind: str) -> None:
    """It is no longer needed. What was made of it stays."""
    data = received.pop(digest, None)
    if data is not None and kind == "descriptor":
        os.close(int(data))
