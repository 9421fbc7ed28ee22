"""What two sides of a connection send each other. Pure: no clock, no I/O, no third party.

Begin with `messages.py` (the types), then `codec.py` (messages to header bytes), `session.py` (a conversation in
frames, with `streams.py`, `order.py` and `liveness.py`) and `handshake.py` (the proof of the token, before any
message). Task processes import `messages` and `codec` only. This folder imports `errors`, `core/limits` and
`tasks/_typing`, nothing else of distmap.
"""
