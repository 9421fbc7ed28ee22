"""How frames travel between two machines, and how both ends prove that they hold the same token.

Begin with `channel.py` (the port), then `conversation.py` (a `wire` session on a channel: tasks, clock, heartbeats).
`dial.py` and `listen.py` make proved connections over `websocket.py`, with `tls.py`, `token.py`, `url.py` and
`identity.py` (INFO); `ssh.py` runs OpenSSH's client for hosts that only a login reaches. `memory.py` is a channel
within one process, `segments.py` is shared memory of one host. This folder imports `core/limits`, `wire`, `tasks` and
`errors`. Everything but `segments` runs on one event loop.
"""
