"""The table of a session's states."""

from __future__ import annotations

from distmap.wire.states import TABLE


def test_every_state_is_reached_from_the_table() -> None:
    """What follows in the table is a state of the table."""
    assert {state for row in TABLE.values() for state in row.values()} == set(TABLE)


def test_a_session_that_goes_on_can_be_resumed() -> None:
    """Wherever a frame may still have to go out, a new channel can be taken, and changes nothing else."""
    for state, row in TABLE.items():
        assert row.get("resume") == (state if "frame out" in row else None)
