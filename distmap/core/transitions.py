"""Every transition of every machine of the scheduler, and nothing else.

Two rules: all transitions live in this file; this file does not know why they happen. Five machines: a job, the input
of a job, an attempt, a slot, a worker. Each table maps state -> trigger -> next state; what is not listed is illegal,
and `step` raises before anything was changed.

Triggers named like an event (`SlotDied`) come from outside. Those in lower case are the scheduler's own doing: they
follow from an event that was legal, so their absence from a table is an invariant that stays on in production (for
example: an attempt that is `stopping` has no `revoked`, hence one outstanding Revoke per attempt).
"""

from __future__ import annotations

from collections.abc import Mapping

from distmap.errors import InvalidTransition

Table = Mapping[str, Mapping[str, str]]

#: A job. `stopping`: cancelled or failed, its attempts are being ended. `over`: Finish was said; late events of an
#: over job are no fault of anybody (they crossed Finish on their way), so they are legal and change nothing.
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

#: An attempt. `stopping`: a Revoke or an Interrupt is under way. `void`: its job is over but the slot still holds it.
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

#: A slot. Only a `ready` one takes work. `killing`: Kill was said, its death is awaited. `resting`: it has a fresh
#: process but died too often of late.
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

#: A worker. Only a `trusted` one takes work. What a lost worker said before it was given up may still arrive: that is
#: legal and changes nothing.
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
    """The state that follows; raises InvalidTransition when the table has none.

    Args:
        table: One of the tables of this file.
        state: The present state.
        trigger: What happened.
        what: The thing it happened to; its `str` names it in the message ("slot 3 of worker 1").
    """
    try:
        return table[state][trigger]
    except KeyError:
        expected = ", ".join(sorted(table.get(state, ()))) or "nothing"
        raise InvalidTransition(f"{what}: {trigger} cannot follow in state {state}, only {expected}") from None


def check(true: bool, text: str, *args: object) -> None:
    """Raise InvalidTransition with the text, formatted with the arguments, unless `true`."""
    if not true:
        raise InvalidTransition(text.format(*args))
