"""What a slot was passed is there until it is no longer needed."""

from __future__ import annotations

import os

import pytest

from distmap.tasks import shared
from distmap.tasks.received import forget, keep

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors")


def test_what_was_passed_is_kept_until_it_is_forgotten() -> None:
    """A task process closes a descriptor that is no longer needed; what was made of it has its own."""
    read, write = os.pipe()
    keep(b"d" * 16, b"%d" % write)
    copy = shared.ReceivedDescriptor(b"d" * 16, "Connection").detach()
    forget(b"d" * 16, "descriptor")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write)
    os.close(copy)
    assert os.read(read, 1) == b""
    os.close(read)
    keep(b"s" * 16, b"key")
    assert shared._key(b"s" * 16) == b"key"
    forget(b"s" * 16, "secret")
    del shared._keys[b"key"]
