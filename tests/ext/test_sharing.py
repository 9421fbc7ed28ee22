"""What the tasks of one call have in common."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from distmap import Pool
from distmap.ext.sharing import Lifted, Shared, is_worth_lifting, size_of

pytestmark = pytest.mark.own_leaks


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1) as pool:
        yield pool


def double(x: int) -> int:
    return 2 * x


def test_what_is_worth_sending_once() -> None:
    """Large arrays, frames and sparse matrices, and functions that travel whole; nothing small."""
    pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    large = np.zeros(1 << 17)
    frame = pandas.DataFrame({"a": large, "b": large})
    assert size_of(frame) >= 2 << 20
    assert size_of(frame["a"]) >= 1 << 20
    assert size_of(sparse.csr_matrix(np.ones((400, 400)))) >= 400 * 400 * 12
    local = lambda x: x  # noqa: E731
    assert all(map(is_worth_lifting, [large, frame, frame["a"], local]))
    assert not any(map(is_worth_lifting, [large[1:], frame[:5], "x" * (2 << 20), double, [large]]))


def test_what_tasks_have_in_common_is_found_by_identity(pool: Pool) -> None:
    """At its second use, in lists and dictionaries of arguments too; equal values are not the same value."""
    shared = Shared(pool)
    array = np.zeros(1 << 17)
    arguments = (array, 1, {"weights": [array, 2]})
    first = shared.lift(arguments)
    assert first[0] is array
    assert type(first[2]["weights"][0]) is Lifted
    again = shared.lift(arguments)
    assert type(again[0]) is Lifted
    assert again[0] is first[2]["weights"][0]
    assert again[1] == 1
    assert shared.lift(array.copy()) is not again[0]
    plain = (1, "a", {"k": [2]})
    assert shared.lift(plain) is plain
    shared.clear()
    assert shared.lift(array) is array
