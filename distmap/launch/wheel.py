"""A wheel of this distmap, made from what is installed here: no source tree and no build tool is needed.

Owns the form of the file (the specification of wheels, 1.0). It must not know where the file goes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from importlib import metadata
from pathlib import Path

from distmap._version import __version__

#: Every file has this time: equal contents give an equal wheel.
_TIME = (1980, 1, 1, 0, 0, 0)


def make_wheel() -> tuple[str, bytes]:
    """Its file name, and its content."""
    info = f"distmap-{__version__}.dist-info"
    files = {f"distmap/{name}": content for name, content in _package().items()}
    files[f"{info}/METADATA"] = _metadata().encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: distmap\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\ndistmap-worker = distmap.worker.cli:main\n"
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return f"distmap-{__version__}-py3-none-any.whl", buffer.getvalue()


def requirements() -> list[str]:
    """What distmap needs besides, as pip takes it."""
    try:
        needed = metadata.requires("distmap") or []
    except metadata.PackageNotFoundError:  # run from its source tree
        return ["cloudpickle", "cryptography", "psutil", "tqdm", "websockets"]
    return [re.sub(r"\s", "", one) for one in needed if "extra" not in one.partition(";")[2]]


def _package() -> dict[str, bytes]:
    """The files of the package as they are installed, or lie in the source tree of an editable installation."""
    folder = Path(__file__).parents[1]
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _metadata() -> str:
    try:
        text = metadata.distribution("distmap").read_text("METADATA")
    except metadata.PackageNotFoundError:
        text = None
    return text or f"Metadata-Version: 2.1\nName: distmap\nVersion: {__version__}\n"


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
