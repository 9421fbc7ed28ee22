"""The text of a local module, as far as it matters when it runs.

Owns the digest of a source without comments, docstrings and layout. Must not know functions, values or how modules
travel. For the kernel: task processes do not import this.
"""

from __future__ import annotations

import ast
from hashlib import sha256

from distmap.tasks.extras import Source

#: By the digest of a source, which holds its text and its place.
_known: dict[bytes, bytes] = {}


def digest_of_source(source: Source) -> bytes:
    """The same for texts that differ in comments, docstrings and layout."""
    found = _known.get(source.digest)
    if found is None:
        found = _known[source.digest] = sha256(normal(source.text).encode("utf-8", "surrogatepass")).digest()
    return found


def normal(text: str) -> str:
    """A source in a form without comments, docstrings and layout; the text itself if Python does not read it."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return text
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                del node.body[0]
    return ast.dump(tree, annotate_fields=False)
