"""Slots: the task processes of one host, started, fed, watched, ended and replaced.

Used twice: by the local engine in the kernel, and by a worker on a remote host. Parent's side, on the loop's thread:
`slots.py` (all slots, and what others call) -> `watching.py` (how long items run, and what they use) -> `processes.py`
(how processes end and are replaced) -> `slot.py` (one slot, its attempts) -> `process.py` (its process now) ->
`spawn.py` (how it is started); reports go to a `listener.py`. Task process: `child.py`. Both: `frames.py` (bytes on the
socket pair) and `control.py` (shared cells). May import `transport/segments`, `tasks`, `wire` and `core/limits`. Begin
with `slots.py`.
"""
