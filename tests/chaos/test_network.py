"""The scripts of this folder about networks and hosts, with a small budget. Longer: `python -m chaos.network`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from chaos.packets import possible

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux shows them"),
    pytest.mark.timeout(90),
]


def play(*commands: str) -> None:
    """Run scripts of this folder side by side, to their ends: most of their time they wait. They say "ok"."""
    tests = Path(__file__).parents[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=tests, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for command in commands
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=70)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    for process, text in zip(started, said, strict=True):
        assert process.returncode == 0, text[-4000:]
        assert "ok\n" in text


def test_faults_of_two_networks_at_random() -> None:
    """Calls over two workers whose connections fail in many ways: right results, nothing runs or travels twice."""
    play("chaos.network --minutes 0.02 --seed 5")


def test_a_connection_may_fail_at_any_byte() -> None:
    """Cut, stalled or with a changed bit, at bytes of TLS, of the proof, of resuming and of a map: nothing is lost."""
    play("chaos.cuts --minutes 0.02 --seed 5")


def test_nothing_outlives_its_kernel() -> None:
    """A kernel that ends or is killed leaves no running item, neither here nor on a worker."""
    play("chaos.orphans goodbye killed --orphan-after 2")


def test_a_side_that_stands_still() -> None:
    """A worker that is stopped for long joins anew when it goes on; one whose kernel is busy for long just waits."""
    play("chaos.pauses stopped --grace 2", "chaos.pauses busy --grace 2")


def test_a_link_that_loses_packets() -> None:
    """Loss, delay and a narrow link slow a map down; after a long outage others do it, and the worker is back."""
    if not possible():
        pytest.skip("this machine allows no network namespace with a TUN device")
    play(
        "chaos.lossy slow --latency 0.05 --items 12",
        "chaos.lossy long --grace 2 --items 24",
        "chaos.orphans silent --orphan-after 3",
    )


def test_many_workers_at_a_relay_that_restarts() -> None:
    """All come back in time, and nothing is computed twice."""
    play("chaos.relayed --workers 24 --away 0.2")
