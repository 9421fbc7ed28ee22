"""What workers have to say to whoever made a call: other versions of packages, and how its items were run.

Owns the words of these warnings. Whoever serves the call gives them, once, at its end, in a thread of the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distmap.tasks.caller import warn
from distmap.wire.messages import REMARK

#: Remarks that are told; further ones are counted.
_MOST = 5


def warn_of(notices: Mapping[tuple[int, str], list[str]], sentences: Iterable[str] = ()) -> None:
    """Warn of what came; at most once of versions, and once of all else.

    Args:
        notices: NOTICE or REMARK and the line, with the workers that sent it.
        sentences: what the call itself has to say, each a warning of its own.
    """
    for sentence in sentences:
        warn(sentence)
    if not notices:
        return
    said = [(kind == REMARK, line, ", ".join(workers)) for (kind, line), workers in notices.items()]
    versions = "; ".join(f"{line} {workers}" for remark, line, workers in said if not remark)
    if versions:
        warn(f"{versions}: results may differ from those here, or not unpickle; install the same version on both sides")
    remarks = [f"on {workers}, {line}" for remark, line, workers in said if remark]
    if remarks:
        more = f"; and {len(remarks) - _MOST} more such remarks" if len(remarks) > _MOST else ""
        warn("; ".join(remarks[:_MOST]) + more)
