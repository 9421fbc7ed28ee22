"""The scripts about killed processes and interrupts, with a small budget. Longer: `python -m chaos.kills`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux shows them")


def play(*command: str) -> str:
    """Run a script of this folder to its end; what it prints. It fails by its exit code."""
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tests, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(120)
def test_killed_and_stopped_processes_cost_nothing() -> None:
    """Task processes and supervisors are hit at random while calls run: every result is right, in its place, once."""
    assert "lost: 0" in play("chaos.kills", "--minutes", "0.04", "--seed", "11")


@pytest.mark.timeout(120)
def test_interrupts_at_any_moment_leave_nothing() -> None:
    """The prompt is back, the pool works, and nothing runs on or is left, whatever the call was doing."""
    assert "left behind: 0" in play("chaos.interrupts", "--instants", "5", "--seed", "3")
