"""How a job ends: its error, and who is told."""

from __future__ import annotations

import threading

import pytest

import distmap
from distmap.calls.outcome import Completion

#: The shared pool lives longer than a test.
pytestmark = pytest.mark.own_leaks


@pytest.fixture(scope="module")
def pool2():
    """Two slots of this machine, shared by the tests of this file."""
    with distmap.Pool(2) as pool:
        yield pool


def test_a_result_that_does_not_unpickle_is_an_error(pool2):
    """It is not a result, nor left out of a fold."""

    class Bad:
        def __init__(self, x):
            self.x = x

        def __reduce__(self):
            return int, ("no number",)

    with pytest.raises(distmap.PayloadError):
        pool2.map(lambda x: Bad(x) if x == 2 else x, range(4))


def test_hooks_are_called_at_the_end_and_not_after_it():
    """A hook that comes before the end is called by the end; one that comes after it is refused."""
    called = []
    completion = Completion(threading.Event())
    assert completion.add(lambda: called.append(completion.over.is_set()))
    completion.raise_error()
    completion.conclude(KeyError("x"))
    assert called == [True]
    assert not completion.add(lambda: called.append("late"))
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            completion.raise_error()
        assert len(caught.traceback) < 10
