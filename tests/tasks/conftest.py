"""What several tests of the room share."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.captured import Captured

TESTS = Path(__file__).resolve().parent


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Captured]:
    far = Captured(monkeypatch)
    yield far
    far.end()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, like that of a notebook; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) is None or str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Runs a script in a process of its own, and gives what it printed."""

    def run(source: str) -> str:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
        command = [sys.executable, "-W", "error", "-B", "-c", textwrap.dedent(source)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=18, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
