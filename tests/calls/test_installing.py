"""What `pool.install` takes, gives and refuses; `tests/face/test_install.py` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import distmap
from distmap.calls.installing import Installation, checked_requirements


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ((), ValueError, "takes what pip is to install"),
        ((["polars"],), TypeError, "takes text, as `pip install` does; got list"),
        (("polars\nrich",), ValueError, "one requirement or option of pip in each argument"),
        ((" ",), ValueError, "one requirement"),
        ((b"polars",), TypeError, "got bytes"),
    ],
)
def test_what_it_does_not_take(given: Any, error: type[Exception], words: str) -> None:
    """A sentence says what it takes."""
    with pytest.raises(error, match=words):
        checked_requirements(given)


def test_paths_are_taken() -> None:
    """A path is text for pip."""
    assert checked_requirements(("a==1", Path("/wheels/a.whl"))) == ("a==1", "/wheels/a.whl")


def test_what_it_gives_reads_well() -> None:
    """A mapping by worker, a line for each."""
    done = Installation({"gpu1": "installed polars-1.9.0", "gpu2": "had all of it"})
    assert dict(done) == {"gpu1": "installed polars-1.9.0", "gpu2": "had all of it"}
    assert (len(done), repr(done)) == (2, "gpu1: installed polars-1.9.0\ngpu2: had all of it")


def test_processes_of_somebody_else() -> None:
    """Where distmap did not start the processes it does not install: the message says whose they are."""
    with distmap.Pool("inline") as pool, pytest.raises(TypeError, match="inline is run by somebody else"):
        pool.install("polars")
