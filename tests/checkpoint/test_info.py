"""`checkpoint_info` and `Checkpoint` tell what is in a file, and give its results, without a pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import distmap
from distmap.errors import CheckpointError


def cell(source: str) -> Any:
    """A function of a notebook."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(source, space)
    return space["score"]


SQUARE = "k = 1\ndef score(x): return x * x + k"


@pytest.fixture(scope="module")
def pool() -> Any:
    with distmap.Pool(2) as pool:
        yield pool


@pytest.fixture
def path(tmp_path: Path, pool: distmap.Pool) -> str:
    """A checkpoint with the squares of 0 to 9."""
    path = str(tmp_path / "scores.sqlite")
    pool.map(cell(SQUARE), range(10), checkpoint=path, progress=False)
    return path


def test_it_tells_what_is_inside(path: str) -> None:
    """Functions, numbers, times, size; nobody writes to it any more."""
    info = distmap.checkpoint_info(path)
    [function] = info.functions
    assert (info.path, info.items, info.owner) == (path, 10, "")
    assert (function.name, function.items, function.current) == ("score", 10, True)
    assert function.versions == {}
    assert info.nbytes > function.nbytes > 0
    assert function.first_used <= function.last_used
    bundle = info._repr_mimebundle_()
    assert bundle["text/plain"] == repr(info)
    assert "score" in repr(info)
    assert "dm-card" in bundle["text/html"]
    assert distmap.Checkpoint(Path(path))._repr_mimebundle_() == bundle


def test_results_are_read_by_function_and_by_name(path: str) -> None:
    """The function itself, as another cell may have defined it, its name, or none where there is only one."""
    expected = [(at, at * at + 1) for at in range(10)]
    checkpoint = distmap.Checkpoint(path)
    for fn in (cell("# moved\n\n" + SQUARE), "score", None):
        assert list(checkpoint.results(fn)) == expected


def test_a_changed_function_has_no_results(path: str) -> None:
    """What changed is named, and how to read the old results all the same."""
    checkpoint = distmap.Checkpoint(path)
    with pytest.raises(CheckpointError, match=r"the global k changed.*results\('score'\)"):
        checkpoint.results(cell(SQUARE.replace("k = 1", "k = 2")))
    with pytest.raises(CheckpointError, match=r"no results of len; it has those of score"):
        checkpoint.results(len)


def test_versions_of_a_function_are_kept_apart(path: str, pool: distmap.Pool) -> None:
    """After a restart the name gives the new results, and the old function the old ones."""
    changed = cell(SQUARE.replace("k = 1", "k = 2"))
    with pytest.warns(UserWarning, match="the global k changed"):
        pool.map(changed, range(5), checkpoint=path, on_change="restart", progress=False)
    checkpoint = distmap.Checkpoint(path)
    assert dict(checkpoint.results("score")) == {at: at * at + 2 for at in range(5)}
    assert len(list(checkpoint.results(cell(SQUARE)))) == 10
    assert [one.current for one in checkpoint.info().functions] == [True, False]


def test_of_several_functions_one_is_to_be_said(path: str, pool: distmap.Pool) -> None:
    """The message has their names."""
    pool.map(len, ["a", "bb"], checkpoint=path, progress=False)
    checkpoint = distmap.Checkpoint(path)
    with pytest.raises(CheckpointError, match=r"len, score"):
        checkpoint.results()
    assert list(checkpoint.results(len)) == [(0, 1), (1, 2)]


def test_it_is_read_while_a_call_writes(tmp_path: Path, pool: distmap.Pool) -> None:
    """The info names this process; results appear as they are committed, before the call is over."""
    path = str(tmp_path / "live.sqlite")
    stream = pool.imap(cell("import time\ndef score(x):\n    time.sleep(0.01)\n    return x"), range(500), buffer=50,
                       checkpoint=path, progress=False)  # fmt: skip
    assert next(stream) == 0
    info = distmap.checkpoint_info(path)
    assert "process" in info.owner
    found = list(distmap.Checkpoint(path).results())
    assert found[0] == (0, 0)
    assert len(found) < 500
    stream.close()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """A missing file, at once."""
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        distmap.Checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        distmap.checkpoint_info(tmp_path / "none")
