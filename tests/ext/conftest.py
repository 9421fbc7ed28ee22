"""What the tests of engines and libraries share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from distmap.engine import foreign_host


@pytest.fixture(scope="module", autouse=True)
def no_host_stays() -> Iterator[None]:
    """Some workers of engines are threads of this process: what distmap has started for them ends with the file."""
    yield
    foreign_host.end()
