"""Values as bytes in a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distmap.checkpoint.values import PLAIN, ZLIB, pack_parts, read_file, remove_files, unpack_parts, write_file
from distmap.errors import CheckpointError


@pytest.mark.parametrize(
    ("parts", "codec"),
    [
        ([b"small"], PLAIN),
        ([b"text " * 1000, b"", b"more " * 1000], ZLIB),
        ([os.urandom(3000), bytearray(os.urandom(70_000))], PLAIN),
    ],
)
def test_parts_come_back_and_are_compressed_where_that_pays(parts: list[bytes], codec: int) -> None:
    """Parts come back as they were; text is compressed, what is small or random is not."""
    packed = pack_parts(parts)
    assert packed.codec == codec
    assert packed.nbytes == sum(map(len, packed.pieces))
    back = unpack_parts(packed.sizes, packed.codec, b"".join(packed.pieces))
    assert [bytes(part) for part in back] == [bytes(part) for part in parts]
    assert all(isinstance(part, bytearray) for part in back[1:]), "arrays may be written to"


def test_other_bytes_are_refused() -> None:
    """Bytes of another length, and damaged ones, are no value."""
    packed = pack_parts([b"text " * 1000])
    with pytest.raises(ValueError, match="Error"):
        unpack_parts(packed.sizes, packed.codec, b"no zlib")
    with pytest.raises(ValueError, match="expected 5000"):
        unpack_parts(packed.sizes, PLAIN, b"short")


def test_large_values_are_files(tmp_path: Path) -> None:
    """A large value is written whole, read again, and removed; one that is gone is named."""
    folder = str(tmp_path / "x.sqlite.d")
    write_file(folder, 3, [b"ab", memoryview(b"cd")])
    assert os.listdir(folder) == ["3"]
    assert read_file(folder, 3) == b"abcd"
    remove_files(folder, [3, 4])
    with pytest.raises(CheckpointError, match=r"x\.sqlite\.d"):
        read_file(folder, 3)
