"""For tests of your own: workers as child processes (`workers`), a bad network before them (`relay`), what every
channel must do (`channels`), what every engine must keep (`engines`), and a small engine of somebody else's
(`adapters`).

Nothing of distmap imports this folder. Begin with `workers.py` to test code that uses remote workers, and with
`engines.py` to try an engine or an executor of your own. The simulator that judges the scheduler is in
`tests/simulation/`.
"""
