"""What an engine of ipyparallel's keeps between calls; the tests of the adapter use the rest."""

from __future__ import annotations

from distmap.engine.attempt import BlobParts
from distmap.ext import ipyparallel_far as far


def test_a_payload_is_kept_until_it_is_forgotten() -> None:
    """Under its digest; to forget what is not there does nothing."""
    far.keep(b"digest", "value", b"head", b"buffer")
    assert far._kept == {b"digest": BlobParts(b"digest", "value", (b"head", b"buffer"))}
    far.forget(b"digest")
    far.forget(b"digest")
    assert far._kept == {}
