"""The one loop of a pool: events to the scheduler, its commands to the engines.

Begin with `driver.py`, whose head has the picture. `commands.py` carries commands out; `jobs.py`, `attempts.py`,
`workers.py`, `blobs.py` and `snapshots.py` each hold one kind of record; `messages.py` has what a call is sent;
`output.py` shows what tasks print; `portal.py` is the loop in its own thread. Ring 6: it may import engines, views,
tasks, core and wire, and knows no user code. Everything runs on the loop's thread unless its docstring says otherwise.
"""
