"""Notebook files, written without nbformat: that takes seconds to import, as it reads grammars. Knows no Jupyter."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path


def write_book(path: Path, cells: Sequence[str]) -> None:
    """A notebook file of code cells, none of them run."""
    book = {
        "cells": [
            {
                "cell_type": "code",
                "execution_count": None,
                "id": f"cell-{number}",
                "metadata": {},
                "outputs": [],
                "source": textwrap.dedent(cell).strip(),
            }
            for number, cell in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(book), encoding="utf-8")
