"""For tests of your own: workers as child processes (`workers`), a bad network before them (`relay`), what every
channel must do (`channels`), and a small engine of somebody else's (`adapters`).

Nothing of distmap imports this folder; it may import everything but `pool`. Begin with `workers.py` to test code that
uses remote workers. The simulator that judges the scheduler is in `tests/simulation/`.
"""
