"""What travels to a task process, and how it runs there.

Here lives all that a task process imports (but for `slots/child.py` and what its parent shares with it), and what the
kernel needs to pack the same things: functions, modules, values, errors, prints. A folder of ring 2: it may import
`errors`, `core/limits.py` and `wire/messages.py`. What a task process imports at its start must stay light.

Where to begin reading:
  what travels     `items.py` (a chunk as bytes), `pickling.py`, `code.py` (a function), `broadcast.py`, `bundling.py`
  how it runs      `library.py` (what was sent), `runner.py`, `run.py` (the loop over the items), `capture.py` (prints)
  what goes wrong  `failures.py` (errors that travel), `object_paths.py` (which part of a value does not pickle)
"""
