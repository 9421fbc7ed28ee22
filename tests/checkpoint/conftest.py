"""A store in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distmap.checkpoint.store import Store, close_store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store with nothing in it."""
    found = open_store(str(tmp_path / "scores.sqlite"))
    yield found
    close_store(found)
