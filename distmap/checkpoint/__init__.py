"""`checkpoint=path`: finished items of a call are kept in a file, and taken from there when the call is made again.

Owns the file: its schema (`schema.py`), values as bytes (`values.py`), who may write to it (`owner.py`), reading and
writing (`store.py`), keys of items (`keys.py`) and which items of an input are known (`known.py`). Ring 3: knows
functions, items and pickles, but no job, no driver and no view; `calls/` decides when something is read or written.

Why a folder of its own: the file outlives pools and kernels, and is also read without any (`checkpoint_info`).

The decision: known items are left out where the input of a call is read, and put back where its results are handed
over; nothing between the two is told. The scheduler gets a shorter input. A chunk holds neighbours of the input only,
and carries the index of its first item, so that seeds, errors and reports name items as ever. On the way back a chunk's
reports are kept as they arrive, still pickled: no value is unpickled to be written, one row serves all items of a
report, and the user's code does not run in the thread that writes.
"""
