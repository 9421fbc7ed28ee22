"""The Jupyter kernel of this process, if there is one: whether it is there, what it can do, which cell runs.

Owns all questions to the kernel. Does not import IPython, which takes a second: whoever runs in a kernel has imported
it already.
"""

from __future__ import annotations

import sys
from typing import Any


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel, whose front end can show more than text."""
    return _kernel() is not None


def current_cell() -> str | None:
    """Id of the run of a cell that calls this; None outside a notebook."""
    kernel = _kernel()
    name = None if kernel is None else kernel.get_parent().get("header", {}).get("msg_id")
    return name if isinstance(name, str) else None


def has_subshells() -> bool:
    """Whether a click can reach this kernel while a cell blocks."""
    info = getattr(_kernel(), "kernel_info", None)
    return isinstance(info, dict) and "kernel subshells" in info.get("supported_features", ())


def shell() -> Any:
    """IPython's shell; None outside of it."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return None if get_ipython is None else get_ipython()


def _kernel() -> Any:
    return getattr(shell(), "kernel", None)
