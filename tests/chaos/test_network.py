"""The scripts of this folder about networks and hosts, with a small budget. Longer: `python -m chaos.network`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from chaos.packets import possible

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux shows them")


def play(*command: str) -> str:
    """Run a script of this folder to its end; what it prints. It fails by its exit code."""
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tests, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(70)
@pytest.mark.parametrize("scene", ["goodbye"])
def test_nothing_outlives_its_kernel(scene: str) -> None:
    """A kernel that ends, is killed, or is killed and not heard of any more leaves no running item anywhere."""
    assert f"{scene}: ok" in play("chaos.orphans", scene, "--orphan-after", "1")


@pytest.mark.timeout(70)
@pytest.mark.parametrize("scene", ["slow", "vanish"])
def test_real_packets_are_lost(scene: str) -> None:
    """Over a link that loses packets a map completes; from a host that vanishes the work goes elsewhere."""
    if not possible():
        pytest.skip("this machine allows no network namespace with a TUN device")
    short = ["--latency", "0.05", "--items", "24", "--grace", "2" if scene == "vanish" else "30"]
    assert f"{scene}: ok" in play("chaos.lossy", scene, *short)
