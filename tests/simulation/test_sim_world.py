"""The simulated world: messages and slots."""

from __future__ import annotations

from typing import Any

from simulation.sim_jobs import World


def test_mail_with_one_key_keeps_its_order() -> None:
    """What was sent first arrives first, however long it takes."""
    world = World(0)
    came: list[str] = []
    world.faults = frozenset({"shuffled"})
    world.send("key", 5.0, lambda: came.append("first"))
    world.send("key", 1.0, lambda: came.append("second"))
    world.send("other", 1.0, lambda: came.append("other"))
    for _, _, action in sorted(world.heap, key=lambda entry: entry[:2]):
        action()
    assert came == ["other", "first", "second"]


def test_without_shuffling_all_mail_keeps_its_order() -> None:
    """One line for everything."""
    world = World(0)
    came: list[Any] = []
    world.faults = frozenset()
    world.send("a", 5.0, lambda: came.append(1))
    world.send("b", 1.0, lambda: came.append(2))
    for _, _, action in sorted(world.heap, key=lambda entry: entry[:2]):
        action()
    assert came == [1, 2]


def test_a_worker_that_is_lost_is_lost_once() -> None:
    """The budget of losses and the news of them are not spent twice."""
    world = World(1)
    worker = world.join()
    before = world.loss_budget
    world.lose(worker, charged=True)
    world.lose(worker, charged=True)
    assert world.loss_budget == before - 1
