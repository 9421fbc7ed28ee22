"""What several tests of the room share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.captured import Captured


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Captured]:
    far = Captured(monkeypatch)
    yield far
    far.end()
