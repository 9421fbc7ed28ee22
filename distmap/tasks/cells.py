"""The indexes of an attempt's shared cells.

Owns their numbers alone. The process that runs the attempt writes the first two, the process that gave it the others;
the runner also clears CELL_FLUSH, which asks it to report at once.
"""

from __future__ import annotations

CELL_ATTEMPT, CELL_AT, CELL_STOP_ATTEMPT, CELL_STOP, CELL_INTERRUPT, CELL_FLUSH = range(6)
