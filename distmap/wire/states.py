"""The states of a session, and what may happen in each.

Owns the table. It must not know frames or messages, except Bye. Read by `session.py`.

Whether the session has a channel (`Session.attached`) is no state here: the table says what may be said, the channel
only when it travels. One table for both would hold each state twice, with the same row. Without a channel no frame
goes out or comes in; everything else is as the table says.
"""

from __future__ import annotations

from collections.abc import Mapping

#: All transitions of a session: state -> what happens -> next state. What is not listed is not allowed.
#:
#: `open`: messages travel in both directions. `left`: the other side sent Bye, so no message of it may follow.
#: `closing`: our Bye is queued, so no message can follow it; what comes in is acknowledged and dropped.
#: `parting`: our Bye has been cut. It and what went before it may have to be given out again.
#: `closed`: our Bye was acknowledged, or the caller ended the session; frames that are still under way are ignored.
#: `failed`: the other side sent something malformed, so that its next frames cannot be trusted.
TABLE: Mapping[str, Mapping[str, str]] = {
    "open": {
        "send": "open",
        "send Bye": "closing",
        "frame out": "open",
        "frame in": "open",
        "message in": "open",
        "Bye in": "left",
        "resume": "open",
        "end": "closed",
        "error": "failed",
    },
    "left": {
        "send": "left",
        "send Bye": "closing",
        "frame out": "left",
        "frame in": "left",
        "resume": "left",
        "end": "closed",
        "error": "failed",
    },
    "closing": {
        "frame out": "closing",
        "Bye out": "parting",
        "frame in": "closing",
        "message in": "closing",
        "Bye in": "closing",
        "resume": "closing",
        "end": "closed",
        "error": "failed",
    },
    "parting": {
        "frame out": "parting",
        "Bye acknowledged": "closed",
        "frame in": "parting",
        "message in": "parting",
        "Bye in": "parting",
        "resume": "parting",
        "end": "closed",
        "error": "failed",
    },
    "closed": {
        "frame in": "closed",
    },
    "failed": {},
}
