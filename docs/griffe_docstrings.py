"""Docstrings that the reference cannot read from the source.

mkdocstrings reads the source without running it. A few exceptions are made on first use (`distmap/errors.py` says why);
in the source there is only a stub of each for type checkers. Here they get the docstring that they have when they run.
"""

from __future__ import annotations

import inspect
from typing import Any

import griffe

from distmap import errors


class MadeOnFirstUse(griffe.Extension):
    """Gives exceptions without a docstring in the source the one of the class itself."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        if cls.docstring is None and cls.path.startswith("distmap.errors."):
            text = inspect.getdoc(getattr(errors, cls.name))
            cls.docstring = griffe.Docstring(text or "", parent=cls)
