"""What a slot was passed by the process that it belongs to: secrets and descriptors of what the two share.

Owns the table, and closes a descriptor that is no longer needed. What is made of them is `shared.py`'s, which imports
much of multiprocessing: here they only arrive.
"""

from __future__ import annotations

import os

#: By digest, a secret, or the number of a descriptor.
passed: dict[bytes, bytes] = {}


def keep(digest: bytes, data: bytes) -> None:
    """A secret or a descriptor has arrived."""
    passed[digest] = data


def forget(digest: bytes, kind: str) -> None:
    """It is no longer needed. What was made of it stays."""
    data = passed.pop(digest, None)
    if data is not None and kind == "descriptor":
        os.close(int(data))
