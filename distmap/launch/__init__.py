"""Launchers: they start a `distmap-worker` where nobody has started one, and lead the pool to it.

Begin with `ssh.py`: it logs in by the system's OpenSSH client (`transport/ssh.py`), and sends `attach.py` there, which
starts the worker or finds the one it has started, and passes bytes. `wheel.py` makes what is installed there if the
user asks for it. `scripts.py` writes job scripts for batch systems, in which workers dial in. This folder imports
`transport` and lower rings, and must not know engines.
"""
