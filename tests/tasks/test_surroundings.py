"""What surrounds a call is taken as it is then, and a task process turns to it."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from distmap.tasks.surroundings import (
    CallSurroundings,
    Surroundings,
    SurroundingsSwitch,
    Watch,
    _blob,
    _filters,
    _plain,
)


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is as it was before, after each test."""
    folder, environ = os.getcwd(), dict(os.environ)
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with warnings.catch_warnings():
        yield
    os.chdir(folder)
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    os.environ.update(environ)


def told(call: CallSurroundings) -> tuple[Surroundings, Surroundings]:
    import pickle

    assert call.here is not None
    assert call.there is not None
    here, there = (Surroundings(*pickle.loads(blob.payload.head)) for blob in call[:2])
    return here, there


def test_variables_of_a_slot_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call changes what a slot has of its own, such as its GPU, and pools inside tasks do not inherit the rule."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("DISTMAP_SLOT_VARIABLES", "CUDA_VISIBLE_DEVICES")
    switch = SurroundingsSwitch()
    assert "DISTMAP_SLOT_VARIABLES" not in os.environ
    for value in ("7", None):
        blob = _blob(Surroundings((), (), env={"CUDA_VISIBLE_DEVICES": value, "OTHER": "x"}))
        assert blob is not None
        switch.switch_to(blob.digest, blob.payload)
        assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OTHER"]) == ("1", "x")


def test_the_same_is_given_while_nothing_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A call between two changes costs nothing and sends nothing; each kind of change makes a new one, told once."""
    seen: list[CallSurroundings] = []
    watch = Watch(dict(os.environ), {}, seen.append)
    changes = [
        lambda: sys.argv.append("--more"),
        lambda: sys.path.insert(0, "relative"),
        lambda: monkeypatch.setenv("DISTMAP_SOMETHING", "1"),
        lambda: os.chdir(tmp_path),
        lambda: warnings.simplefilter("ignore", FutureWarning),
    ]
    for number, change in enumerate([lambda: None, *changes], 1):
        change()
        assert watch.look() is watch.look()
        assert len(seen) == number
    assert len({call.here.digest for call in seen if call.here}) == len(seen)


def test_only_some_of_it_goes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers elsewhere are told arguments, filters and what `env=` adds, no more; nobody is told the token."""
    base = dict(os.environ)
    monkeypatch.setenv("PRIVATE", "to this machine")
    monkeypatch.setenv("DISTMAP_TOKEN", "secret")
    here, there = told(Watch(base, {"ADDED": "1"}, lambda call: None).look())
    assert here.env == {"PRIVATE": "to this machine"} | {"ADDED": "1"}
    assert (here.path, here.cwd) == (tuple(sys.path), os.getcwd())
    assert there == Surroundings(tuple(sys.argv), _plain(_filters()), None, None, {"ADDED": "1"})


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """Of a working directory that was deleted nothing is told."""
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    here, _ = told(Watch({}, {}, lambda call: None).look())
    assert here.cwd is None


def test_filters_travel_as_plain_values() -> None:
    """Regexes by their pattern, categories by their name; what matches in a way of its own stays here."""

    class Odd:
        def match(self, text: str) -> bool:
            return True

    class Local(Warning):
        pass

    filters = [
        ("ignore", re.compile("a.b", re.I), UserWarning, None, 0),
        ("error", None, Local, "module", 3),
        ("error", Odd(), UserWarning, None, 0),
    ]
    assert _plain(filters) == (
        ("ignore", ("a.b", int(re.compile("", re.I).flags)), ("builtins", "UserWarning"), None, 0),
        ("error", None, (__name__, Local.__qualname__), "module", 3),
    )


def test_a_category_is_known_by_its_name() -> None:
    """A filter holds for a category that is made later, and for its subclasses, without importing anything for it."""
    filters = (
        ("error", None, ("not_imported_yet", "Outer.Odd"), None, 0),
        ("ignore", None, ("builtins", "Warning"), None, 0),
    )
    with warnings.catch_warnings():
        SurroundingsSwitch().switch_to(b"1", _blob(Surroundings(tuple(sys.argv), filters)).payload)
        assert _plain(_filters()) == filters
        odd = type("Odd", (UserWarning,), {"__module__": "not_imported_yet", "__qualname__": "Outer.Odd"})
        warnings.warn("quiet", UserWarning, stacklevel=1)
        for kind in (odd, type("Odder", (odd,), {})):
            with pytest.raises(odd):
                warnings.warn("loud", kind, stacklevel=1)
    assert "not_imported_yet" not in sys.modules


def test_only_what_has_changed_is_set(tmp_path: Path) -> None:
    """What a task changes by itself lasts until the calling process changes the same thing, and comes back never."""
    os.environ.update(KEPT="start", CHANGED="start")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    start = Surroundings(("script",), _plain(_filters()), tuple(sys.path), str(tmp_path / "a"))
    switch, name = SurroundingsSwitch(), iter(range(100))

    def to(wanted: Surroundings) -> None:
        switch.switch_to(b"%d" % next(name), _blob(wanted).payload)

    to(start)
    assert (sys.argv, os.getcwd()) == (["script"], str(tmp_path / "a"))
    # a task of the user's
    os.chdir(tmp_path)
    sys.path.insert(0, "tasks")
    os.environ.update(KEPT="tasks", NEW="tasks")
    to(start)
    assert (os.getcwd(), os.environ["KEPT"], os.environ["NEW"]) == (str(tmp_path), "tasks", "tasks")
    to(start._replace(path=("kernels", *sys.path[1:]), env={"CHANGED": "kernel", "TAKEN": None}))
    assert sys.path[:2] == ["tasks", "kernels"]
    assert (os.environ["KEPT"], os.environ["CHANGED"]) == ("tasks", "kernel")
    to(start._replace(env={"KEPT": None}, cwd=str(tmp_path / "b")))
    assert "KEPT" not in os.environ
    assert (os.environ["CHANGED"], os.environ["NEW"], os.getcwd()) == ("start", "tasks", str(tmp_path / "b"))
    assert (sys.path[0], "kernels" in sys.path) == ("tasks", False)
    to(start._replace(cwd=str(tmp_path / "never")))
    assert os.getcwd() == str(tmp_path / "b")
    assert os.environ["KEPT"] == "start"
