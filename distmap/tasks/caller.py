"""Where the user's code is on the stack: the innermost frame that is not distmap's.

Owns that walk, and warnings that point at such a line. Imported by task processes, so it stays light.
"""

from __future__ import annotations

import os
import sys
from types import FrameType

#: The folder of the package: frames of its files are distmap's own and are not shown to users.
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def users_frame(*helpers: str) -> tuple[FrameType, int]:
    """That frame, and how far it is from the caller of this, as `stacklevel` counts.

    Args:
        helpers: files that are not the user's either.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith((PACKAGE, *helpers)):
        frame, level = frame.f_back, level + 1
    return frame, level


def warn(text: str) -> None:
    """A UserWarning at the line of the user."""
    import warnings

    warnings.warn(text, UserWarning, stacklevel=users_frame()[1])
