"""What becomes of results, inputs and functions that are too large for a message: errors of items, or of the job.

Owns the two answers that are made in place of a task process, which cannot be asked. They are made where the message
was to be sent: in the notebook and in a worker. Unpickles nothing.
"""

from __future__ import annotations

from distmap.errors import PayloadError
from distmap.tasks._typing import Buffer
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.failures import describe
from distmap.tasks.items import encode
from distmap.tasks.pickling import dump_small
from distmap.wire.messages import Report


def as_failed(report: Report, error: PayloadError, what: str) -> tuple[Report, list[Buffer]]:
    """The report with, for each of its items, the error that `what` does not fit into a message."""
    items = range(report.lo, report.hi)
    return report._replace(failed=tuple(items)), _parts(error, what, len(items))


def refusal(error: PayloadError) -> list[Buffer]:
    """The parts of a Refused: what the job needs does not fit into a message."""
    return _parts(error, "the function, or a value that it captures", 1)


def _parts(error: PayloadError, what: str, count: int) -> list[Buffer]:
    return list(encode([describe(error, what, dump_small)] * count, Dependencies(), what="")[0].parts)
