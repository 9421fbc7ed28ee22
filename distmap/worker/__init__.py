"""The process of `distmap-worker`: one supervisor, which serves one pool at a time with its slots.

Begin with `cli.py` (command line, signals), then `supervisor.py` (how it connects and leaves) and `serving.py` (one
pool's time here). `detached.py` is a worker that a login starts, `load.py` reads how busy the host is. This folder
imports `transport`, `slots` and lower rings, and never runs or unpickles anything of a user.
"""
