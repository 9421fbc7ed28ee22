"""What workers lack, in words."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.calls.shortfalls import left_out, refused_by_all, shortfall
from distmap.core.events import JobSpec
from distmap.driver.messages import Finished, Refusal, empty_snapshot
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.extras import Lack
from distmap.tasks.failures import describe
from distmap.tasks.items import encode
from distmap.tasks.pickling import dump_small

MISSING = ModuleNotFoundError("No module named 'polars'", name="polars")


def _refusal(worker: str, error: Exception, *lacks: Lack, **fields: Any) -> Refusal:
    said = [describe(error, "", dump_small), lacks]
    return Refusal(worker, encode(said, Dependencies(), what="")[0].parts, **{"unfit": False, **fields})


def _finished(*refusals: Refusal, refused: bool = False) -> Finished:
    return Finished("done", False, None, refused, refusals, empty_snapshot(JobSpec()))


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (
            _refusal("w", MISSING, Lack("polars", "1.9.0", None)),
            "lacks polars 1.9 (here: 1.9.0); `python -m pip install polars==1.9.0` there, or "
            "`pool.install('polars==1.9.0')`",
        ),
        (
            _refusal("w", ImportError("x"), Lack("a", "2.0+cu118", "1.0"), Lack("b", "3.1", None), unfit=True),
            "has a 1.0 (here: 2.0+cu118), lacks b 3.1 (here: 3.1); `python -m pip install a==2.0 b==3.1` there, or "
            "`pool.install('a==2.0', 'b==3.1')`",
        ),
        (
            _refusal("w", ImportError("cannot import name 'g'"), Lack("a", "2.0", "1.0")),
            "ImportError: cannot import name 'g', has a 1.0 (here: 2.0); `python -m pip install a==2.0` there, or "
            "`pool.install('a==2.0')`",
        ),
        (_refusal("w", FileNotFoundError(2, "No such file", "t")), "FileNotFoundError: [Errno 2] No such file: 't'"),
    ],
)
def test_why_a_worker_does_not_run_it(refusal: Refusal, words: str) -> None:
    """What is missing or another version is named with both versions and the way to mend it; else the error."""
    assert shortfall(refusal) == words


def test_one_warning_for_all_workers() -> None:
    """Those that were let in, and a call that nobody ran, are no matter of it."""
    lack = Lack("polars", "1.9.0", None)
    gpu1, gpu2 = _refusal("gpu1", MISSING, lack), _refusal("gpu2", OSError("no"))
    (said,) = left_out("f", _finished(gpu1, gpu2))
    assert said.startswith("f ran on the other workers only: gpu1 lacks polars 1.9 (here: 1.9.0);")
    assert said.endswith("; and gpu2 raised as it loaded the function: OSError: no")
    assert left_out("f", _finished(gpu1._replace(let_in=True))) == []
    assert left_out("f", _finished(gpu1, refused=True)) == []
    assert left_out("f", _finished()) == []


def test_the_error_of_a_call_that_nobody_could_run() -> None:
    """It is what the last worker raised, with a note on each of them."""
    lack = Lack("polars", "1.9.0", None)
    error = refused_by_all([_refusal("gpu1", MISSING, lack), _refusal("gpu2", MISSING, lack)])
    assert type(error) is ModuleNotFoundError
    assert error.name == "polars"
    assert "could not be loaded on worker gpu2" in error.__notes__[-2]
    assert error.__notes__[-1].count("lacks polars 1.9") == 2
