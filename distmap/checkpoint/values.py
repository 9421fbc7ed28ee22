"""The parts of a report as bytes in a checkpoint, and back.

Owns compression, and the files of large values. Must not know tables, keys or pickles. Any thread.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from struct import pack, unpack
from typing import Any

from distmap.core.limits import LIMITS
from distmap.errors import CheckpointError
from distmap.tasks._typing import NamedTuple
from distmap.tasks.payload import size

PLAIN, ZLIB = 0, 1
#: Bytes of a value that are compressed to see whether that pays, and below which nothing is compressed.
_SAMPLE, _LEAST = 32 << 10, 512
#: It pays if so much is left at most. (Numbers lose a tenth, at 50 MB/s: that is dearer than the disk.)
_PAYS = 0.7
_LEVEL = 1


class Packed(NamedTuple):
    """The parts of a report, ready to be written."""

    sizes: bytes
    codec: int
    pieces: tuple[Any, ...]
    nbytes: int

    @property
    def is_large(self) -> bool:
        """It goes to a file of its own."""
        return self.nbytes > LIMITS.checkpoint_inline_bytes


def pack_parts(parts: Sequence[Any], *, compress: bool = True) -> Packed:
    """Parts as they are, or compressed if they may be and that saves a third or so."""
    parts = [memoryview(part).cast("B") for part in parts]
    sizes, whole = pack(f"<{len(parts)}Q", *map(size, parts)), sum(map(size, parts))
    largest = max(parts, key=size)
    middle = max(0, (largest.nbytes - _SAMPLE) // 2)
    sample = largest[middle : middle + _SAMPLE]
    if compress and whole >= _LEAST and len(zlib.compress(sample, _LEVEL)) <= _PAYS * sample.nbytes:
        state = zlib.compressobj(_LEVEL)
        pieces = [piece for part in parts if (piece := state.compress(part))]
        pieces.append(state.flush())
        return Packed(sizes, ZLIB, tuple(pieces), sum(map(len, pieces)))
    return Packed(sizes, PLAIN, tuple(parts), whole)


def unpack_parts(sizes: bytes, codec: int, data: bytes | memoryview) -> list[Any]:
    """The parts again. Each has memory of its own, which arrays may write to.

    Raises:
        ValueError: the bytes are not those that were written.
    """
    try:
        whole = memoryview(data if codec == PLAIN else zlib.decompress(data))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    lengths = unpack(f"<{len(sizes) // 8}Q", sizes)
    if sum(lengths) != whole.nbytes:
        raise ValueError(f"{whole.nbytes} bytes are there, expected {sum(lengths)}")
    parts: list[Any] = []
    at = 0
    for length in lengths:
        parts.append(bytearray(whole[at : at + length]) if at else bytes(whole[:length]))
        at += length
    return parts


def write_file(folder: str, name: int, pieces: Iterable[Any]) -> None:
    """Write a large value: whole and on the disk, or not there at all.

    Raises:
        OSError: as writing does.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, str(name))
    with open(path + ".tmp", "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


def read_file(folder: str, name: int) -> bytes:
    """A large value.

    Raises:
        CheckpointError: its file is gone or cannot be read.
    """
    path = os.path.join(folder, str(name))
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CheckpointError(
            f"a large result of the checkpoint is missing: {error}. The folder {folder} belongs to the checkpoint and "
            "is moved and copied with it"
        ) from error


def remove_files(folder: str, names: Iterable[int]) -> None:
    """Remove large values; those that are gone already are no error."""
    for name in names:
        try:
            os.remove(os.path.join(folder, str(name)))
        except FileNotFoundError:
            continue
