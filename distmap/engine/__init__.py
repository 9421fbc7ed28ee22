"""Engines: what runs chunks, behind one port.

Begin with `base.py`: the driver calls an `Engine`, an engine reports to a `WorkerListener`. `local.py` has the slots of
this machine, `hub.py` workers over connections, `inline.py` this process itself. `foreign.py` has engines that somebody
else runs: their members come and go there, `foreign_worker.py` drives one of them through the port in `adapter.py`, and
`foreign_host.py` is what runs at its other end, in task processes of ours, or `attempt.py`, in the call itself.
`adapters.py` finds the adapter for what a pool was given; `executors.py` has that of plain executors (with `traits.py`,
what is known of which), `distmap.ext` those of named engines. An engine may import `slots`, `transport`, `tasks`,
`core` and `wire`; it decides nothing and must not know the driver. Everything runs on the loop.
"""
