"""Docstrings that the reference cannot read from the source.

mkdocstrings reads the source without running it.

- Fields are described by comments that begin with `#:`, which it does not read.
- A few exceptions are made on first use (`distmap/errors.py` says why). In the source there is only a stub of each for
  type checkers; here they get the docstring that they have when they run.
"""

from __future__ import annotations

import inspect
from itertools import takewhile
from pathlib import Path
from typing import Any

import griffe

from distmap import errors


class Docstrings(griffe.Extension):
    """Gives fields and exceptions a docstring, if they have none in the source."""

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if attr.docstring is None and attr.lineno and isinstance(attr.filepath, Path):
            above = attr.filepath.read_text(encoding="utf-8").splitlines()[: attr.lineno - 1]
            comment = takewhile(lambda line: line.startswith("#:"), map(str.strip, reversed(above)))
            if text := "\n".join(reversed([line.removeprefix("#:").strip() for line in comment])):
                attr.docstring = griffe.Docstring(text, parent=attr)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        if cls.docstring is None and cls.path.startswith("distmap.errors."):
            text = inspect.getdoc(getattr(errors, cls.name))
            cls.docstring = griffe.Docstring(text or "", parent=cls)
