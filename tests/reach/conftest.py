"""What tests of several ways to workers use."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the desk names no proxy, authority or headers."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("DISTMAP_CA", "DISTMAP_HEADER_FILE"):
            monkeypatch.delenv(name)
