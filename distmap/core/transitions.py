"""All state transitions of the scheduler, as tables: of a job, its input, an attempt, a slot and a worker.

Owns the tables, and the checks that raise InvalidTransition. Must not know why a transition happens. Each table maps
state -> trigger -> next state. What is not listed is illegal: `next_state` raises before anything is changed.

Triggers with the name of an event (`SlotDied`) come from outside. Triggers in lower case come from the scheduler, as
consequences of a legal event. If one of those is missing in a table, that is an invariant, checked in production too:
a `stopping` attempt has no `revoked`, for example, so an attempt never has two unanswered Revokes.
"""

from __future__ import annotations

from collections.abc import Mapping

from distmap.errors import InvalidTransition

Table = Mapping[str, Mapping[str, str]]

#: A job. `stopping`: cancelled or failed, its attempts are being ended. `over`: Finish was sent. Late events of such a
#: job are legal and change nothing: they crossed Finish on their way.
JOB: Table = {
    "running": {
        "PauseRequested": "paused",
        "ResumeRequested": "running",
        "CancelRequested": "stopping",
        "halted": "stopping",
        "finished": "over",
    },
    "paused": {
        "PauseRequested": "paused",
        "ResumeRequested": "running",
        "CancelRequested": "stopping",
        "halted": "stopping",
        "finished": "over",
    },
    "stopping": {
        "PauseRequested": "stopping",
        "ResumeRequested": "stopping",
        "CancelRequested": "stopping",
        "finished": "over",
    },
}

#: The input of a job. `closing`: a pushed job that was closed and still has items to be taken.
INPUT: Table = {
    "open": {
        "ItemsAdded": "open",
        "InputClosed": "closing",
        "read": "reading",
        "exhausted": "ended",
    },
    "reading": {
        "ChunkRead": "open",
        "ChunkRead.last": "ended",
        "InputFailed": "failed",
    },
    "closing": {
        "exhausted": "ended",
    },
}

#: An attempt. `stopping`: a Revoke or Interrupt is not answered yet. `void`: its job is over, the slot still holds it.
ATTEMPT: Table = {
    "waiting": {
        "AttemptReported": "waiting",
        "ended": "over",
        "promoted": "running",
        "revoked": "stopping",
        "voided": "void",
    },
    "running": {
        "AttemptReported": "running",
        "ended": "over",
        "revoked": "stopping",
        "interrupted": "stopping",
        "voided": "void",
    },
    "stopping": {
        "AttemptReported": "stopping",
        "ended": "over",
        "promoted": "stopping",
        "interrupted": "stopping",
        "voided": "void",
    },
    "void": {
        "AttemptReported": "void",
        "ended": "over",
        "promoted": "void",
    },
}

#: A slot. Only a `ready` one takes work. `killing`: Kill was sent, SlotDied has not come yet. `resting`: it has a new
#: process, but died too often recently.
SLOT: Table = {
    "ready": {
        "SlotDied": "dead",
        "assigned": "ready",
        "killed": "killing",
    },
    "killing": {
        "SlotDied": "dead",
    },
    "dead": {
        "SlotReady": "ready",
        "SlotReady.rest": "resting",
    },
    "resting": {
        "SlotDied": "dead",
        "rested": "ready",
    },
}

#: A worker. Only a `trusted` one takes work. Late events of a lost worker are legal and change nothing.
WORKER: Table = {
    "trusted": {
        "WorkerSuspected": "suspect",
        "WorkerTrusted": "trusted",
        "WorkerDraining": "draining",
        "WorkerLost": "lost",
    },
    "suspect": {
        "WorkerSuspected": "suspect",
        "WorkerTrusted": "trusted",
        "WorkerDraining": "draining",
        "WorkerLost": "lost",
    },
    "draining": {
        "WorkerSuspected": "draining",
        "WorkerTrusted": "draining",
        "WorkerDraining": "draining",
        "WorkerLost": "lost",
    },
}


def next_state(table: Table, state: str, trigger: str, what: object) -> str:
    """The state that follows; raises InvalidTransition if the table has none.

    Args:
        table: One of the tables of this file.
        state: The present state.
        trigger: What happened.
        what: The thing that changes; its `str` names it in the error ("slot 3 of worker 1").
    """
    try:
        return table[state][trigger]
    except KeyError:
        expected = ", ".join(sorted(table.get(state, ()))) or "nothing"
        raise InvalidTransition(f"{what}: {trigger} cannot follow in state {state}, only {expected}") from None


def check(true: bool, text: str, *args: object) -> None:
    """Raise InvalidTransition with the text, formatted with the arguments, unless `true`."""
    if not true:
        raise illegal(text, *args)


def illegal(text: str, *args: object) -> InvalidTransition:
    """The error with the text, formatted with the arguments; where a call of `check` for each event would cost."""
    return InvalidTransition(text.format(*args))
