"""The simulator itself: its command, and whether its oracle sees a scheduler that misbehaves."""

from __future__ import annotations

from typing import Any

import pytest
from simulation import sim_jobs, sim_world, simulate
from simulation.oracle import Broken

from distmap.errors import InvalidTransition


def test_the_command_plays_many_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """It says how many, what happened in them, and how long they took."""
    assert simulate.main(["--seeds", "8"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("8 seeds (2 with a network), ")
    assert ", 0 violations" in text
    assert "a slot's process ended: died" in text


def test_parallel_processes_play_the_same_worlds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures do not depend on how many there are."""
    monkeypatch.setattr(simulate, "BATCH", 4)
    texts = []
    for jobs in ("1", "2"):
        assert simulate.main(["--seeds", "8", "--jobs", jobs]) == 0
        texts.append(capsys.readouterr().out.splitlines()[:-1])
    assert texts[0] == texts[1]


def test_the_command_shows_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """Every event and command of it, in order."""
    assert simulate.main(["--first", "5", "--show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0.000000 < WorkerJoined")
    assert any(" > Finish" in line for line in lines)


def test_the_command_names_the_seed_that_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason, its faults, and how to see it."""
    monkeypatch.setattr(sim_jobs, "MAX_EVENTS", 0)
    assert simulate.main(["--seeds", "3"]) == 1
    text = capsys.readouterr().err
    assert "seed 0 failed: Broken: not at rest" in text
    assert "--first 0 --show" in text


def misbehave(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let every scheduler change what it says."""
    honest = sim_world.Scheduler.handle

    def handle(self: Any, event: Any, now: float) -> list[Any]:
        return [changed for command in honest(self, event, now) for changed in change(command)]

    monkeypatch.setattr(sim_world.Scheduler, "handle", handle)


def play(seeds: int) -> None:
    for seed in range(seeds):
        simulate.run(seed)


BREACHES = {
    "delivers twice": ("Deliver", lambda command: [command, command]),
    "forgets to deliver": ("Deliver", lambda command: []),
    "forgets to release": ("Release", lambda command: []),
    "finishes twice": ("Finish", lambda command: [command, command]),
    "never finishes": ("Finish", lambda command: []),
    "assigns twice": ("Assign", lambda command: [command, command]),
    "reads twice": ("Read", lambda command: [command, command]),
    "revokes twice": ("Revoke", lambda command: [command, command]),
    "forgets to discard": ("Discard", lambda command: []),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_the_oracle_sees(breach: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that breaks a promise is caught within a few seeds."""
    kind, change = BREACHES[breach]
    misbehave(monkeypatch, lambda command: change(command) if type(command).__name__ == kind else [command])
    with pytest.raises((Broken, InvalidTransition, KeyError)) as caught:
        play(30)
    assert "seed" in caught.value.__notes__[0]
