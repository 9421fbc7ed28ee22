"""Tests of distmap.tasks.nesting: how deep a process is, its share of the cores, and what is being imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distmap.tasks.nesting import cores, depth, importing, nesting_environment, runners


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "0 True 1"),
        ({"DISTMAP_DEPTH": "2", "DISTMAP_SHARE": "1"}, "2 False 3"),
        ({"DISTMAP_DEPTH": "much", "DISTMAP_SHARE": "-1"}, "0 True 1"),
    ],
    ids=["kernel", "task process", "not ours"],
)
def test_depth_and_share_come_by_the_environment(given: dict[str, str], expected: str) -> None:
    """A process knows both from its parent, and tells its own children one more."""
    script = (
        "import os; from distmap.tasks.nesting import *; from distmap.tasks.nesting import depth\n"
        "own = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()\n"
        "print(depth, cores() == own and 'DISTMAP_SHARE' not in os.environ or cores() == own > 1,"
        " nesting_environment(1)['DISTMAP_DEPTH'])"
    )
    env = {**os.environ, **given}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected.split()


def test_slots_share_the_cores() -> None:
    """Each slot is told of its share, at least one core."""
    assert depth == 0
    assert nesting_environment(1)["DISTMAP_SHARE"] == str(cores())
    assert nesting_environment(10_000)["DISTMAP_SHARE"] == "1"


def test_what_is_imported_by_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a top level that runs below a runner of tasks counts: not other imports, nor code given to `exec`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "from distmap.tasks.nesting import importing\ndef f(): return importing()\nfound = f()"
    (tmp_path / "at_top.py").write_text(text)

    def run() -> tuple[str | None, str | None, str | None]:
        import at_top

        space = {"importing": importing, "__name__": "at_top"}
        exec("found = importing()", space)
        return at_top.found, at_top.f(), space["found"]

    assert run() == (None, None, None)
    del sys.modules["at_top"]
    runners.add(run.__code__)
    try:
        assert run() == ("at_top", None, None)
    finally:
        runners.discard(run.__code__)
        del sys.modules["at_top"]
