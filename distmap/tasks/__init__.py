"""What travels to a task process, and how it runs there.

Here lives all that a task process imports (but for `slots/child.py` and what connects it), and what the kernel needs to
pack the same things: functions, modules, values, errors, prints. A folder of ring 2: it may import `errors`,
`core/limits.py` and `wire/messages.py`. Its modules must stay light, as they are the start of every task process.
Begin with `payload.py` (a chunk as bytes) and `runner.py` (the loop over its items).
"""
