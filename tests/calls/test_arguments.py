"""What a pool is given is sorted out, and errors say what was expected."""

from __future__ import annotations

import concurrent.futures
import functools

import pytest

from distmap.calls.arguments import Wanted, label_of, mp_positional, positional_chunksize, sort_out
from distmap.tasks.nesting import cores


def test_forms_of_workers():
    """A number, a URL, an executor, a list of them, or nothing."""
    executor = concurrent.futures.ThreadPoolExecutor(1)
    assert sort_out(None, None) == Wanted(local=cores())
    assert sort_out(None, "wss://0.0.0.0:1") == Wanted()
    assert sort_out(3, None) == Wanted(local=3)
    assert sort_out("wss://a:1", None) == Wanted(urls=("wss://a:1",))
    assert sort_out(["wss://a:1", 2, executor], None) == Wanted(2, ("wss://a:1",), (executor,))
    assert sort_out("inline", None) == Wanted(inline=True)
    executor.shutdown()


@pytest.mark.parametrize("bad", [2.5, True, {"a": 1}, [None]])
def test_other_forms_are_refused(bad):
    """The error lists what may be given."""
    with pytest.raises(TypeError, match='a number of slots, "gpu", a wss:// URL, an Executor'):
        sort_out(bad, None)


def test_no_slots_are_refused():
    """A pool of nothing could never finish."""
    with pytest.raises(ValueError, match="slots must be a whole number of at least 1; got 0"):
        sort_out(0, None)


def test_chunksize_by_position_as_in_multiprocessing():
    """map(fn, iterable, 10) means chunksize=10."""
    options = {}
    assert positional_chunksize(([1], 10), options) == ([1],)
    assert options == {"chunksize": 10}
    assert positional_chunksize(([1], [2]), {}) == ([1], [2])
    assert positional_chunksize(([1], None), {}) == ([1],)
    with pytest.raises(TypeError, match="at least one iterable"):
        positional_chunksize((), {})


def test_callbacks_by_position_as_in_multiprocessing():
    """map_async(fn, iterable, chunksize, callback, error_callback)."""
    assert mp_positional(([1], 3, print, repr), None, None) == (([1], 3), print, repr)
    assert mp_positional(([1], [2]), print, None) == (([1], [2]), print, None)


def test_names_of_functions():
    """Functions, partials and callable objects have names for the bar."""

    class Model:
        def __call__(self):
            """Nothing."""

    assert label_of(len) == "len"
    assert label_of(functools.partial(len)) == "len"
    assert label_of(Model()) == "Model"
