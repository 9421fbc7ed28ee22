"""The scheduler: decides what to do next. Pure: no clock, thread, I/O, chance, or third party.

Holds ids and numbers, never bytes, futures or sockets. Imports `errors`, and nothing else of distmap but the light
typing of `tasks`. The driver passes it events and carries out its commands.

Begin with `events.py` (the vocabulary) and `scheduler.py` (`Scheduler.handle`). The rules are in `placing.py` (which
work goes where), `chunks.py` (how much of it), `reports.py` (what becomes of results) and `faults.py` (deaths and
losses). The state is in `records.py`, `state.py` and `worker_index.py`; its allowed transitions are in
`transitions.py`. Views read `progress.Snapshot`. Every limit is in `limits.py`.
"""
