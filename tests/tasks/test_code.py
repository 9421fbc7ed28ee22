"""Code as bytes, and errors that name the culprit."""

from __future__ import annotations

import functools
import importlib
import math
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distmap.errors import PayloadError
from distmap.tasks import code
from distmap.tasks.code import dump_code
from distmap.tasks.codecache import CodeCache
from distmap.tasks.payload import load_value


def prepare(value: object) -> None:
    """A set-up."""


def notebook(source: str, **names: Any) -> dict[str, Any]:
    """Run a cell: what it defines belongs to `__main__`, and is pickled by value."""
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace


def test_code_holds_the_constants_of_its_job() -> None:
    """Function, style, combine, seed and what runs before it are one pickle; equal content has an equal digest."""
    setups = (CodeCache().setup(partial(print, "x"), frozenset(), ()),)
    code = dump_code(math.floor, style="star", combine=max, seed=5, setups=setups)
    assert load_value(code.payload) == (math.floor, "star", max, 5, ((setups[0].code.digest, None),))
    assert code.setups == setups
    assert code.digest == dump_code(math.floor, style="star", combine=max, seed=5, setups=setups).digest
    assert code.digest != dump_code(math.floor, style="star", combine=max, seed=5).digest
    assert code.digest != dump_code(math.floor).digest
    assert len(code.digest) == 16


def test_large_captures_are_out_of_band_and_never_taken_for_one_another() -> None:
    """A captured array is a buffer of its own; code that holds one has a digest of its own each time."""
    small, big = np.zeros(10_000), np.zeros(500_000)
    code = dump_code(lambda: big)
    assert [memoryview(part).nbytes for part in code.payload.buffers] == [big.nbytes]
    first = dump_code(lambda: small).digest
    small[0] = 1
    assert dump_code(lambda: small).digest != first
    assert dump_code(lambda: big).digest != code.digest


def test_modules_are_part_of_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of a local module is other code once the module has changed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "changing_module.py"
    path.write_text("def f(x): return 1")
    module = importlib.import_module("changing_module")
    cache = CodeCache()
    first = cache.get(module.f)
    assert [blob.kind for blob in first.blobs][:1] == ["modules"]
    assert cache.get(module.f) is first
    path.write_text("def f(x): return 2222")
    importlib.reload(module)
    second = cache.get(module.f)
    assert second.digest != first.digest
    assert second.blobs != first.blobs
    path.write_text("def f(x):\n    import not_imported_yet")
    (tmp_path / "not_imported_yet.py").write_text("")
    importlib.reload(module)
    assert cache.get(module.f) is not cache.get(module.f)
    del sys.modules["changing_module"]


LOCK = threading.Lock()


class Holder:
    def __init__(self) -> None:
        self.inner = {"key": LOCK}

    def method(self, x: int) -> int:
        return x

    def __call__(self, x: int) -> int:
        return x


def closure() -> Callable[[int], object]:
    lock = LOCK
    return lambda x: lock


def defaulted(x: int, lock: object = LOCK) -> int:
    return x


defaulted.__module__ = "__main__"


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (closure(), ["closure.<locals>.<lambda>()", "its captured variable 'lock'", "TypeError", "lock"]),
        (notebook("def f(x): return g(x)\ndef g(x): return L", L=LOCK)["f"], ["f()", "global variable 'g'", "'L'"]),
        (Holder().method, ["method()", "bound to", "attribute 'inner'", "'key'"]),
        (Holder(), ["Holder", "its attribute 'inner'"]),
        (functools.partial(max, [LOCK]), ["its argument 0", "element 0"]),
        (defaulted, ["its default argument 'lock'"]),
    ],
)
def test_what_does_not_pickle_is_named(fn: Callable[..., Any], words: list[str]) -> None:
    """The error names the function and the way to the object that does not pickle; the original is its cause."""
    with pytest.raises(PayloadError) as caught:
        dump_code(fn)
    for word in words:
        assert word in str(caught.value)
    assert isinstance(caught.value.__cause__, TypeError)


def test_what_does_not_pickle_in_the_options_is_named() -> None:
    """So for `combine` and the arguments of a set-up; and where nothing can be found, the function at least."""
    with pytest.raises(PayloadError, match="combine="):
        dump_code(abs, combine=closure())
    with pytest.raises(PayloadError, match=r"function prepare\(\) .*its argument 0"):
        CodeCache().setup(partial(prepare, LOCK), frozenset(), ())


def test_a_very_large_capture_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied into every slot is named, once."""
    monkeypatch.setattr(code, "_LARGE", 1000)
    cell = notebook("def f(x): return table", table="x" * 5000)
    with pytest.warns(UserWarning, match="global variable 'table' is very large"):
        dump_code(cell["f"])
    dump_code(cell["f"])


def test_owned_code_does_not_follow_its_arrays() -> None:
    """`own` copies what was captured, under the same digest."""
    big = np.zeros(500_000)
    code = CodeCache().get(notebook("def f(x): return big", big=big)["f"])
    owned = code.own()
    big[:] = 1
    assert owned.digest == code.digest
    assert load_value(owned.payload)[0](0).sum() == 0
    assert load_value(code.payload)[0](0).sum() == 500_000


def test_a_set_up_of_a_notebook_is_anchored_in_its_globals() -> None:
    """What is pickled with a stand-in for the set-up shares its globals there; the same content has the same digest."""
    cell = notebook("def prepare(): pass\ndef look(): return known", known=5)
    cache = CodeCache()
    setup = cache.setup(cell["prepare"], frozenset(), ())
    assert cache.setup(partial(cell["prepare"]), frozenset(), ()).anchor.__globals__ is cell
    given = partial(cell["prepare"], 1, by="name")
    assert cache.get(given) is cache.get(given)
    given = partial(cell["prepare"], [])
    assert cache.get(given) is not cache.get(given)
    assert cache.setup(cell["prepare"], frozenset(), ()).code.digest == setup.code.digest
    fn, *_, ((digest, anchor),) = load_value(dump_code(cell["look"], setups=(setup,)).payload)
    assert digest == setup.code.digest
    assert anchor.__globals__ is fn.__globals__
    assert fn() == 5
    assert cache.setup([].append, frozenset(), ()).anchor is None
    assert cache.setup(math.floor, frozenset(), ()).anchor is None
