"""What is in a checkpoint is read beside the process that writes to it: each item once, in order, as computed last."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distmap.checkpoint.contents import Reader, Span, _newest, results, size_on_disk
from distmap.checkpoint.owner import Owner, this_process
from distmap.checkpoint.schema import connect, folder_of
from distmap.checkpoint.values import pack_parts, write_file
from distmap.errors import CheckpointError
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.items import encode


class Writer:
    """Makes a checkpoint by its schema."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.db = connect(self.path, create=True)

    def function(self, name: str = "score", used: float = 1.0, **values: Any) -> int:
        row = {"style": "one", "digest": b"d", "parts": {}, "options": {}, "python": "3.11", "made": 1.0} | values
        row |= {"parts": json.dumps(row["parts"]), "options": json.dumps(row["options"]), "name": name, "used": used}
        sql = f"INSERT INTO function ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        return int(self.db.execute(sql, tuple(row.values())).lastrowid or 0)

    def report(
        self, function: int, first: int, values: list[Any], *, missing: Any = None, lo: int = 0, large: bool = False
    ) -> int:
        chunk = self.db.execute(
            "INSERT INTO chunk (function, first, count, keys) VALUES (?, ?, ?, ?)",
            (function, first, lo + len(values), bytes(16 * (lo + len(values)))),
        ).lastrowid
        payload, _ = encode(values, Dependencies(), what="result")
        packed = pack_parts(payload.parts)
        data = b"".join(bytes(piece) for piece in packed.pieces)
        found = self.db.execute(
            "INSERT INTO report (chunk, lo, hi, items, missing, sizes, codec, data, nbytes, worker, made) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'w', 1.0)",
            (
                chunk, lo, lo + len(values), len(values) - sum(hi - low for low, hi in missing or ()),
                json.dumps(missing) if missing else None, packed.sizes, packed.codec, None if large else data,
                packed.nbytes,
            ),
        ).lastrowid  # fmt: skip
        if large:
            write_file(folder_of(self.path), int(found or 0), packed.pieces)
        return int(found or 0)


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    writer = Writer(tmp_path / "scores.sqlite")
    yield writer
    writer.db.close()


def test_results_come_in_the_order_of_items(writer: Writer) -> None:
    """Whatever the order in which they were computed; items without a result are left out."""
    score = writer.function()
    writer.report(score, 10, ["k", "l"])
    writer.report(score, 0, ["a", "?", "c", "d"], missing=[[1, 2]])
    writer.report(score, 4, ["f"], lo=1)
    expected = [(0, "a"), (2, "c"), (3, "d"), (5, "f"), (10, "k"), (11, "l")]
    assert list(results(writer.path, score)) == expected


def test_an_item_that_was_computed_again_comes_once(writer: Writer) -> None:
    """The later chunk counts, where it has a result."""
    score = writer.function()
    writer.report(score, 0, ["old"] * 4)
    writer.report(score, 1, ["new", "?", "new"], missing=[[1, 2]])
    assert [value for _, value in results(writer.path, score)] == ["old", "new", "old", "new"]
    with Reader(writer.path) as reader:
        assert reader.functions()[0].items == 4


@pytest.mark.parametrize("seed", range(20))
def test_overlapping_spans_are_resolved_as_a_plain_table_would(seed: int) -> None:
    """Drawing the spans one over the other, the earliest first, gives the same."""
    draw = random.Random(seed)
    spans = []
    for chunk in range(draw.randrange(1, 12)):
        lo = draw.randrange(30)
        spans.append(Span(lo, lo + draw.randrange(1, 15), chunk, chunk, draw.randrange(3)))
    table: dict[int, tuple[int, int]] = {}
    for span in spans:
        table.update({at: (span.report, span.at + at - span.lo) for at in range(span.lo, span.hi)})
    draw.shuffle(spans)
    found = list(_newest(spans))
    assert [span.lo for span in found] == sorted(span.lo for span in found)
    assert {at: (s.report, s.at + at - s.lo) for s in found for at in range(s.lo, s.hi)} == table


def test_functions_are_counted_apart(writer: Writer) -> None:
    """Each has its own results; the one that was used last comes first, also one without results."""
    score, other = writer.function("score", used=1.0), writer.function("other", used=2.0, options={"seed": 1})
    writer.report(score, 0, [1, 2, 3], missing=[[0, 1]])
    with Reader(writer.path) as reader:
        first, second = reader.functions()
    assert (first.id, first.name, first.items, first.options) == (other, "other", 0, {"seed": 1})
    assert (second.id, second.name, second.items) == (score, "score", 2)
    assert second.nbytes > 0
    assert list(results(writer.path, other)) == []


def test_values_are_read_when_they_are_reached(writer: Writer) -> None:
    """A later report that is damaged does no harm before its turn."""
    score = writer.function()
    writer.report(score, 0, [1])
    broken = writer.report(score, 1, [2])
    writer.db.execute("UPDATE report SET data = x'00' WHERE id = ?", (broken,))
    found = results(writer.path, score)
    assert next(found) == (0, 1)
    with pytest.raises(CheckpointError, match="cannot be read"):
        next(found)


def test_large_results_are_read_from_their_files(writer: Writer) -> None:
    """They count for the size on disk, and a missing one is named."""
    score = writer.function()
    before = size_on_disk(writer.path)
    number = writer.report(score, 0, [bytes(range(256)) * 400], large=True)
    assert size_on_disk(writer.path) > before
    assert list(results(writer.path, score)) == [(0, bytes(range(256)) * 400)]
    (Path(folder_of(writer.path)) / str(number)).unlink()
    with pytest.raises(CheckpointError, match="belongs to the checkpoint"):
        list(results(writer.path, score))


def test_a_report_that_goes_meanwhile_is_an_error(writer: Writer) -> None:
    """Reading holds no lock, so what `on_change="restart"` removes is gone, and said to be."""
    score = writer.function()
    writer.report(score, 0, [1])
    gone = writer.report(score, 1, [2])
    found = results(writer.path, score)
    next(found)
    writer.db.execute("DELETE FROM report WHERE id = ?", (gone,))
    with pytest.raises(CheckpointError, match="no longer"):
        next(found)


class Bad:
    """Pickles, and does not come back."""

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return int, ("x",)


def test_a_result_that_does_not_unpickle_names_its_item(writer: Writer) -> None:
    """What comes before it was given already."""
    score = writer.function()
    writer.report(score, 7, ["x", Bad()])
    found = results(writer.path, score)
    assert next(found) == (7, "x")
    with pytest.raises(CheckpointError, match=r"item 8 .* cannot be unpickled here"):
        next(found)


def test_reading_goes_on_while_another_process_writes(writer: Writer) -> None:
    """The writer is in the middle of a transaction: what it committed before is read, and it is named as the owner."""
    score = writer.function()
    writer.report(score, 0, [1])
    writer.db.execute("BEGIN IMMEDIATE")
    Owner(writer.path).take(writer.db)
    writer.db.execute("COMMIT")
    writer.db.execute("BEGIN IMMEDIATE")
    writer.report(score, 1, [2])
    program = f"""
from distmap.checkpoint.contents import Reader, results
print(list(results({writer.path!r}, {score})))
with Reader({writer.path!r}) as reader:
    print(reader.owner().pid)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=18, check=True)
    writer.db.execute("COMMIT")
    assert done.stdout.split("\n")[:2] == ["[(0, 1)]", str(os.getpid())]
    with Reader(writer.path) as reader:
        assert reader.owner() is not None


def test_nobody_writes_to_it(writer: Writer) -> None:
    """An owner whose process is gone is none."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    here = this_process()
    writer.db.execute(
        "INSERT INTO owner VALUES (1, 't', ?, ?, ?, 'then', 1.0, 1.0)", (process.pid, here.host, here.boot)
    )
    with Reader(writer.path) as reader:
        assert reader.owner() is None


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """It is named, and left as it is."""
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        Reader(str(tmp_path / "nothing.sqlite"))
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(CheckpointError, match=r"no checkpoint of distmap"):
        Reader(str(other))
