"""Engines: what runs chunks, behind one port.

Begin with `base.py`: the driver calls an `Engine`, an engine reports to a `WorkerListener`. `local.py` has the slots of
this machine, `hub.py` workers over connections, `foreign.py` an executor of the user (with `attempt.py`, which runs
there, and `traits.py`, what is known of which executor), `inline.py` this process itself. An engine may import `slots`,
`transport`, `tasks`, `core` and `wire`; it decides nothing and must not know the driver. Everything runs on the loop.
"""
