"""The scheduler and the sessions in many seeded worlds full of faults, judged by an oracle with a count of its own."""

from __future__ import annotations

import pytest
from simulation.simulate import run

PARTS = 10
#: To stay quick. CI plays 20,000 in a step of its own (`python -m simulation.simulate`).
SEEDS = 400


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_promise_is_kept(part: int) -> None:
    """Whatever goes wrong, each item is accepted once, in order, charged by the rules, and every job ends."""
    for seed in range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS):
        run(seed)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(45, id="an-idle-slot-beside-the-one-that-sets-its-worker-up"),
        pytest.param(3233992, id="work-sent-ahead-beside-a-slot-that-is-reserved"),
        pytest.param(3058635, id="work-sent-ahead-beside-a-reserved-slot-of-the-same-worker"),
        pytest.param(3200763, id="a-slot-that-ends-its-rest-for-the-call-of-a-set-up"),
        pytest.param(3523, id="a-set-up-that-is-refused-after-it-was-cancelled"),
        pytest.param(11, id="a-dial-that-comes-after-a-later-one"),
        pytest.param(259, id="a-ping-under-way-as-the-clock-jumps"),
        pytest.param(5337, id="late-results-after-too-many-deaths"),
        pytest.param(10148, id="an-unfit-worker-that-leaves-refuses-again"),
        pytest.param(86263, id="a-late-dial-as-the-world-comes-to-rest"),
        pytest.param(1171891, id="reports-of-a-worker-that-goes-on-after-an-interrupt"),
        pytest.param(1227985, id="a-worker-that-is-left-out-refuses-again"),
    ],
)
def test_what_once_broke_a_promise(seed: int) -> None:
    """Worlds in which a promise was broken before."""
    run(seed)


def test_a_seed_replays_byte_for_byte() -> None:
    """The same seed gives the same log, so that a failure can be looked at."""
    for seed in range(20):
        assert run(seed, keep=True).text == run(seed, keep=True).text


def test_seeds_differ() -> None:
    """Different seeds give different worlds."""
    assert len({run(seed, keep=True).text for seed in range(20)}) == 20
