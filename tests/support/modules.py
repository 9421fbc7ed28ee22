"""Modules of the user, written by a test."""

from __future__ import annotations

import importlib
import textwrap
from pathlib import Path


def write(folder: Path, **files: str) -> None:
    """Write modules into a folder: `pkg__mod` is pkg/mod.py, `pkg_init` is pkg/__init__.py."""
    importlib.invalidate_caches()
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py" if not name.endswith("_init") else name[:-5] + "/__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
