"""The transition tables."""

from __future__ import annotations

import pytest

from distmap.core.transitions import ATTEMPT, INPUT, JOB, SLOT, WORKER, next_state
from distmap.errors import InvalidTransition

TABLES = {"job": JOB, "input": INPUT, "attempt": ATTEMPT, "slot": SLOT, "worker": WORKER}
#: States in which a machine is forgotten, or an input has no more to give.
FINAL = {"over", "lost", "ended", "failed"}


def test_a_listed_transition_is_taken() -> None:
    """What the table lists follows."""
    assert next_state(SLOT, "ready", "SlotDied", "slot 0") == "dead"


def test_an_illegal_transition_names_everything() -> None:
    """The error names the thing, its state, the trigger and what could have followed."""
    with pytest.raises(InvalidTransition, match=r"slot 0.*SlotReady cannot follow in state ready.*SlotDied, assigned"):
        next_state(SLOT, "ready", "SlotReady", "slot 0")


def test_an_unknown_state_allows_nothing() -> None:
    """From a final state nothing follows."""
    with pytest.raises(InvalidTransition, match="only nothing"):
        next_state(JOB, "over", "finished", "job 1")


@pytest.mark.parametrize("name", TABLES)
def test_every_state_can_be_reached_and_left(name: str) -> None:
    """No state is a dead end but the final ones, and none stands alone."""
    table = TABLES[name]
    targets = {target for triggers in table.values() for target in triggers.values()}
    first = next(iter(table))
    assert targets - set(table) <= FINAL
    assert set(table) - {first} <= targets


def test_one_revoke_at_a_time() -> None:
    """An attempt that is being stopped takes no second Revoke."""
    with pytest.raises(InvalidTransition):
        next_state(ATTEMPT, "stopping", "revoked", "attempt 1")
