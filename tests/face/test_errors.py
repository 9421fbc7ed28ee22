"""What a user sees when an item fails, and that it costs this item only."""

from __future__ import annotations

import threading

import pytest

import distmap

#: The shared pool lives longer than a test; its fixture checks what it leaves.
pytestmark = pytest.mark.own_leaks


def fail_at_five(x):
    if x == 5:
        raise KeyError(f"no {x}")
    return x


def test_the_original_type_is_raised(pool2):
    """`map` raises the item's own exception type."""
    with pytest.raises(KeyError, match="no 5"):
        pool2.map(fail_at_five, range(10))


def test_the_note_names_the_item(pool2):
    """A note names the item's index, its repr, the worker and the attempt."""
    with pytest.raises(ValueError, match="odd") as caught:
        pool2.map(lambda x: (_ for _ in ()).throw(ValueError("odd")) if x == "seven" else x, ["six", "seven"])
    note = "\n".join(caught.value.__notes__)
    for word in ("1", "'seven'", "local", "attempt"):
        assert word in note


def test_the_cause_holds_the_remote_traceback(pool2):
    """`__cause__` is a RemoteError with the remote traceback as text: user frames first."""
    with pytest.raises(KeyError) as caught:
        pool2.map(fail_at_five, range(10))
    cause = caught.value.__cause__
    assert isinstance(cause, distmap.RemoteError)
    frames = [line for line in str(cause).splitlines() if line.lstrip().startswith("File ")]
    assert "fail_at_five" in frames[0]
    assert "KeyError" in str(cause)


def test_a_long_repr_is_cut(pool2):
    """An item with an enormous repr does not flood the error."""
    with pytest.raises(ZeroDivisionError) as caught:
        pool2.map(lambda x: 1 // 0, ["y" * 100_000])
    assert len("\n".join(caught.value.__notes__)) < 1000


def test_a_repr_that_raises_is_survived(pool2):
    """An item whose repr raises still gives the original error."""

    class Shy:
        def __repr__(self):
            raise RuntimeError("no repr")

    with pytest.raises(ZeroDivisionError):
        pool2.map(lambda x: 1 // 0, [Shy()])


def test_causes_of_the_users_own_are_in_the_text(pool2):
    """`raise … from …` inside fn is seen in the remote traceback."""

    def chained(x):
        try:
            {}[x]
        except KeyError as error:
            raise ValueError("outer") from error

    with pytest.raises(ValueError, match="outer") as caught:
        pool2.map(chained, [1])
    assert "KeyError" in str(caught.value.__cause__)


def test_partial_keeps_what_was_finished(pool2):
    """After a failure `pool.last.partial` holds (index, value) pairs of what had been finished."""
    with pytest.raises(KeyError):
        pool2.map(fail_at_five, range(6), chunksize=1)
    partial = pool2.last.partial
    assert all(index == value for index, value in partial)
    assert 5 not in dict(partial)
    assert [index for index, _ in partial] == sorted(dict(partial))


def test_on_error_return(pool2):
    """`on_error="return"` puts the exception object in the item's place."""
    got = pool2.map(fail_at_five, range(10), on_error="return")
    assert isinstance(got[5], KeyError)
    assert "5" in "".join(got[5].__notes__)
    assert isinstance(got[5].__cause__, distmap.RemoteError)
    assert [x for x in got if not isinstance(x, KeyError)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_on_error_skip(pool2):
    """`on_error="skip"` leaves the item out, and `failures` says which."""
    assert pool2.map(fail_at_five, range(10), on_error="skip") == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    ((index, error),) = pool2.last.failures
    assert index == 5
    assert isinstance(error, KeyError)


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_on_error_of_iterators(pool2, name):
    """Iterators obey `on_error` as map does."""
    call = getattr(pool2, name)
    assert sorted(call(fail_at_five, range(10), on_error="skip")) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    returned = list(call(fail_at_five, range(10), on_error="return"))
    assert sum(isinstance(x, KeyError) for x in returned) == 1
    assert len(returned) == 10


def test_on_error_skip_of_map_reduce(pool2):
    """A fold leaves skipped items out."""
    for combine in (None, lambda a, b: a + b):
        got = pool2.map_reduce(fail_at_five, range(10), lambda a, b: a + b, initial=0, combine=combine, on_error="skip")
        assert got == sum(range(10)) - 5


def test_a_failure_in_map_reduce_raises(pool2):
    """Without on_error a fold raises the original type, with and without combine."""
    for combine in (None, lambda a, b: a + b):
        with pytest.raises(KeyError):
            pool2.map_reduce(fail_at_five, range(10), lambda a, b: a + b, initial=0, combine=combine)


def test_a_failing_reducer_raises_here(pool2):
    """An exception of the reducer is raised by the call; the pool goes on."""
    with pytest.raises(ZeroDivisionError):
        pool2.map_reduce(abs, range(10), lambda a, b: 1 // 0)
    assert pool2.map(abs, [-1]) == [1]


def test_retries(pool2, tmp_path):
    """`retries=n` runs an item that raised up to n times more."""
    folder = str(tmp_path)

    def third_time(x):
        import os

        tries = len([name for name in os.listdir(folder) if name.startswith(f"{x}-")])
        open(f"{folder}/{x}-{tries}", "w").close()
        if x == 3 and tries < 2:
            raise ConnectionError(f"try {tries}")
        return x

    assert pool2.map(third_time, range(6), retries=2) == list(range(6))
    assert len(list(tmp_path.glob("3-*"))) == 3
    assert len(list(tmp_path.glob("2-*"))) == 1
    assert dict(pool2.last.stats)["retried"] == 2


def test_retries_exhausted(pool2):
    """When the last retry fails too, its error is raised and names the attempt."""
    with pytest.raises(KeyError) as caught:
        pool2.map(fail_at_five, range(10), retries=2)
    assert "attempt 3" in "\n".join(caught.value.__notes__)


def sparse(outcome):
    """fn that does `outcome()` at item 5 and returns x elsewhere."""
    return lambda x: outcome() if x == 5 else x


def only_five_failed(got):
    assert [x for x in got if not isinstance(x, BaseException)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    return got[5]


def test_an_exception_that_does_not_unpickle(pool2):
    """An exception with a constructor of its own that breaks unpickling costs its item; its text arrives."""

    class Picky(Exception):
        def __init__(self, code, reason):
            super().__init__(f"{code}: {reason}")

    def picky():
        raise Picky(42, "by design")

    error = only_five_failed(pool2.map(sparse(picky), range(10), on_error="return"))
    assert isinstance(error, (distmap.RemoteError, Picky))
    assert "Picky" in f"{type(error)}{error}"
    assert "42: by design" in str(error)
    with pytest.raises((distmap.RemoteError, Picky)):
        pool2.map(sparse(picky), range(10))


def test_an_exception_that_does_not_pickle(pool2):
    """An exception that holds a lock costs its item; its type and message arrive as text."""

    def locked():
        import threading

        error = RuntimeError("holds a lock")
        error.lock = threading.Lock()
        raise error

    error = only_five_failed(pool2.map(sparse(locked), range(10), on_error="return"))
    assert "holds a lock" in str(error)


def test_an_exception_of_a_class_that_is_not_here(pool2):
    """An exception class that exists only in the task arrives in some form."""

    def foreign():
        raise type("Foreign", (Exception,), {})("only there")

    error = only_five_failed(pool2.map(sparse(foreign), range(10), on_error="return"))
    assert "only there" in str(error)


def test_a_result_that_does_not_pickle(pool2):
    """A result that cannot travel costs its item only."""

    def lock():
        import threading

        return threading.Lock()

    error = only_five_failed(pool2.map(sparse(lock), range(10), on_error="return"))
    assert isinstance(error, Exception)
    assert "lock" in str(error)


def test_recursion_without_end_is_an_error_of_its_item(pool2):
    """In the function, or in what is pickled of its result."""

    def endless():
        return endless()

    def deep():
        found = []
        for _ in range(100_000):
            found = [found]
        return found

    assert isinstance(only_five_failed(pool2.map(sparse(endless), range(10), on_error="return")), RecursionError)
    error = only_five_failed(pool2.map(sparse(deep), range(10), on_error="return"))
    assert "recursion" in f"{error!r} {error.__cause__!r}".lower()


def test_a_result_whose_pickling_raises_anything(pool2):
    """A result whose __reduce__ raises, even SystemExit, costs its item only."""

    class Bad:
        def __init__(self, error):
            self.error = error

        def __reduce__(self):
            raise self.error

    for kind in (ValueError, SystemExit, RecursionError):
        error = only_five_failed(pool2.map(sparse(lambda kind=kind: Bad(kind("odd"))), range(10), on_error="return"))
        assert isinstance(error, BaseException)


def test_a_result_that_does_not_unpickle(pool2):
    """A result whose unpickling raises here costs its item only."""

    def explode():
        raise OSError("not here")

    class Bomb:
        def __reduce__(self):
            return explode, ()

    error = only_five_failed(pool2.map(sparse(Bomb), range(10), on_error="return"))
    assert "not here" in f"{error} {error.__cause__}"


@pytest.mark.parametrize("chunksize", [None, 10])
def test_an_item_that_does_not_pickle(pool2, chunksize):
    """An item that cannot travel costs itself only."""
    items = [0, 1, 2, 3, 4, threading.Lock(), 6, 7, 8, 9]
    error = only_five_failed(pool2.map(lambda x: x, items, on_error="return", chunksize=chunksize))
    assert isinstance(error, Exception)
    with pytest.raises((TypeError, distmap.DistmapError), match="lock"):
        pool2.map(lambda x: x, items, chunksize=chunksize)


def test_an_item_that_does_not_unpickle(pool2):
    """An item whose unpickling raises in the task costs itself only."""

    def explode():
        raise OSError("not there")

    class Bomb:
        def __reduce__(self):
            return explode, ()

    items = [0, 1, 2, 3, 4, Bomb(), 6, 7, 8, 9]
    error = only_five_failed(pool2.map(lambda x: x, items, on_error="return", chunksize=5))
    assert "not there" in f"{error} {error.__cause__}"


def test_a_function_that_does_not_pickle(pool2):
    """A function that captures a lock raises one clear error, and nothing hangs."""
    lock = threading.Lock()
    with pytest.raises((TypeError, distmap.DistmapError), match="lock"):
        pool2.map(lambda x: lock, [1, 2])
    assert pool2.map(abs, [-1]) == [1]


def test_a_function_that_does_not_load_there(pool2):
    """A function whose loading fails in the task raises one clear error for the job, not one for each item."""

    def explode():
        raise OSError("does not load")

    class Bomb:
        def __reduce__(self):
            return explode, ()

        def __call__(self, x):
            return x

    with pytest.raises((OSError, distmap.DistmapError), match="does not load"):
        pool2.map(Bomb(), range(100))
    assert pool2.map(abs, [-1]) == [1]


def test_an_input_that_raises(pool2):
    """An exception of the user's generator is raised by the call, as it is; the pool goes on."""

    def source():
        yield 1
        yield 2
        raise LookupError("the source broke")

    with pytest.raises(LookupError, match="the source broke"):
        pool2.map(abs, source())
    with pytest.raises(LookupError, match="the source broke"):
        list(pool2.imap(abs, source()))
    assert pool2.map(abs, [-1]) == [1]


def test_stop_iteration_of_fn_does_not_end_imap_silently(pool2):
    """StopIteration that fn raises is an error of the item, not the end of the results."""
    with pytest.raises((StopIteration, distmap.RemoteError), match="StopIteration"):
        pool2.map(lambda x: next(iter(())), [1])
    with pytest.raises((RuntimeError, distmap.RemoteError), match="StopIteration"):
        list(pool2.imap(lambda x: next(iter(())), [1, 2]))


def test_exceptions_as_results_are_results(pool2):
    """A function that returns an exception object returned a value."""
    (got,) = pool2.map(lambda x: ValueError("a value"), [1])
    assert isinstance(got, ValueError)
    assert pool2.last.failures == []


def test_exception_groups(pool2):
    """An ExceptionGroup arrives as one."""

    def several(x):
        raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])

    with pytest.raises(ExceptionGroup) as caught:
        pool2.map(several, [1])
    assert [type(error) for error in caught.value.exceptions] == [ValueError, KeyError]
