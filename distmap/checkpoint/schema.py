"""The tables of a checkpoint file, and opening one.

Owns the schema, its version, and the check that a file is a checkpoint. Must not know what a key or a value is made of.
No thread of its own: a connection may be used by any thread, one at a time.

A file is an SQLite database. Beside it `<path>.d/` holds large values, one file each, named by the row of `report`.

`function`: one row for each function (with the options that change results) whose results are here.
    `name`     its qualified name, as shown to people, such as "score".
    `style`    how it is given an item: "one" (fn(x)) or "star" (fn(*x)).
    `digest`   of its behaviour and of `options`; the same digest means that the results are the same.
    `parts`    JSON: name of a part of the function -> its digest, for the sentence that says what changed.
    `options`  JSON: options of the call that change results, such as {"seed": 1, "batch_size": 100}.
    `versions` JSON: package that the function reaches -> its version; no part of what it does.
    `python`   version of Python that made it, such as "3.11".
    `made`, `used`  seconds since 1970: when the first, and the last call with it began.

`chunk`: items [first, first + count) of an input, which were read together. Chunks of several calls may overlap.
    `keys`     16 bytes for each item, digests of its content, `BY_PLACE` for an item without one (its index then
               stands for it); or 16 bytes in all for many plain items, which are then known together or not at all.

`report`: what a task process reported of items [lo, hi) of a chunk (offsets, from 0), as it arrived.
    `items`    how many of them have a usable result.
    `missing`  JSON: spans [[lo, hi], ...] of offsets without one (they failed, or another report has it); NULL: none.
    `sizes`    lengths of its parts, each 8 bytes, little-endian: the pickles, then large buffers.
    `codec`    0: the parts as they are, one behind the other; 1: these, compressed by zlib.
    `data`     the bytes; NULL: they are in the file `<path>.d/<id>`.
    `nbytes`   bytes that it takes here, wherever they are.
    `worker`   name of the worker.
    `made`     seconds since 1970.
    `tasks.items.load_results(parts, lo, hi)` gives its values; the value of offset `at` is number `at - lo`.

`owner`: at most one row, the process that may write (see `owner.py`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import quote

from distmap.errors import CheckpointError

if TYPE_CHECKING:
    import sqlite3

#: In the header of the file: it is a checkpoint ("dmcp").
APPLICATION = 0x646D6370
#: Also there: the version of these tables.
VERSION = 1
#: Bytes of a key.
KEY = 16
#: The key of an item that has no content of its own: its index stands for it.
BY_PLACE = bytes(KEY)

_TABLES = """
CREATE TABLE IF NOT EXISTS function (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, style TEXT NOT NULL, digest BLOB NOT NULL, parts TEXT NOT NULL,
    options TEXT NOT NULL, versions TEXT NOT NULL DEFAULT '{}', python TEXT NOT NULL, made REAL NOT NULL,
    used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS chunk (
    id INTEGER PRIMARY KEY, function INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
    keys BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS chunk_place ON chunk (function, first);
CREATE TABLE IF NOT EXISTS report (
    id INTEGER PRIMARY KEY, chunk INTEGER NOT NULL, lo INTEGER NOT NULL, hi INTEGER NOT NULL, items INTEGER NOT NULL,
    missing TEXT, sizes BLOB NOT NULL, codec INTEGER NOT NULL, data BLOB, nbytes INTEGER NOT NULL,
    worker TEXT NOT NULL, made REAL NOT NULL);
CREATE INDEX IF NOT EXISTS report_chunk ON report (chunk);
CREATE TABLE IF NOT EXISTS owner (
    one INTEGER PRIMARY KEY CHECK (one = 1), token TEXT NOT NULL, pid INTEGER NOT NULL, host TEXT NOT NULL,
    boot TEXT NOT NULL, started TEXT NOT NULL, since REAL NOT NULL, heartbeat REAL NOT NULL);
"""

#: Seconds that a statement waits for a lock of another process.
_BUSY = 10.0
#: File systems that are shared between machines: the shared memory of WAL does not work there.
_SHARED = (
    "nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs", "gluster", "pvfs", "orangefs", "panfs",
    "wekafs", "fuse", "vboxsf", "virtiofs", "drvfs", "acfs", "ncp", "coda", "juicefs",
)  # fmt: skip


def folder_of(path: str) -> str:
    """The folder of large values."""
    return path + ".d"


def connect(path: str, *, create: bool = False) -> sqlite3.Connection:
    """Open a checkpoint, for reading if not `create`.

    Raises:
        CheckpointError: there is none, or the file is something else, is damaged, or is of a later version; nothing is
            written to it then.
    """
    try:
        import sqlite3
    except ImportError as error:
        raise CheckpointError("checkpoints need the module sqlite3, which this Python was built without") from error

    folder = os.path.dirname(os.path.abspath(path))
    if create and not os.path.isdir(folder):
        raise CheckpointError(f"checkpoint {path} cannot be made: there is no folder {folder}; make it first")
    if not os.path.exists(path):
        if not create:
            raise CheckpointError(f"there is no checkpoint {path}; a call with checkpoint={path!r} makes it")
    elif os.path.getsize(path):
        _check_header(path)
    # A URI, so that reading makes no file; the mode is that of the file's journal, which reading may have to complete.
    uri = f"file:{quote(os.path.abspath(path))}?mode={'rwc' if create else 'rw' if os.access(path, os.W_OK) else 'ro'}"
    try:
        db = sqlite3.connect(uri, uri=True, timeout=_BUSY, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise CheckpointError(f"checkpoint {path} cannot be opened: {error}") from error
    try:
        _prepare(db, path, create)
    except sqlite3.Error as error:
        db.close()
        raise unreadable(path, error) from error
    except BaseException:
        db.close()
        raise
    return db


def unreadable(path: str, error: Exception) -> CheckpointError:
    """What to say of a file that SQLite refuses."""
    return CheckpointError(
        f"checkpoint {path} cannot be read ({error}); nothing in it was changed. Move it away to begin anew, or "
        "restore it from a copy"
    )


def _check_header(path: str) -> None:
    """Refuse what is no SQLite database of ours, before SQLite touches it."""
    try:
        with open(path, "rb") as file:
            header = file.read(100)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be opened: {error}") from error
    if header[:16] != b"SQLite format 3\0" or int.from_bytes(header[68:72], "big") not in (APPLICATION, 0):
        raise CheckpointError(
            f"{path} exists and is no checkpoint of distmap; it was left as it is. Give checkpoint= another path"
        )


def _prepare(db: sqlite3.Connection, path: str, create: bool) -> None:
    application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if not application and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        if not create:
            raise CheckpointError(f"checkpoint {path} has nothing in it yet; a call with checkpoint={path!r} goes on")
        db.execute(f"PRAGMA journal_mode={'WAL' if is_local(path) else 'DELETE'}")
        db.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION}; {_TABLES} COMMIT;"
        )
    elif application != APPLICATION:
        raise CheckpointError(
            f"{path} is a database, but no checkpoint of distmap; it was left as it is. Give checkpoint= another path"
        )
    elif version != VERSION:
        raise CheckpointError(
            f"checkpoint {path} was made by another version of distmap (its format is {version}, this one reads "
            f"{VERSION}); use that version, or another path"
        )
    # Killing the process loses nothing that was committed. Only when the machine itself stops may the last moments be
    # lost, never the file.
    db.execute("PRAGMA synchronous=NORMAL")


def is_local(path: str) -> bool:
    """Whether the file is on a disk of this machine, as far as the system tells (Linux); elsewhere it is believed."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return True
    here = os.path.realpath(path)
    best, kind = "", ""
    for fields in mounts:
        # Spaces in a path are written as \040 there.
        place = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if (here + "/").startswith(place.rstrip("/") + "/") and len(place) >= len(best):
            best, kind = place, fields[fields.index("-") + 1]
    return not kind.startswith(_SHARED)
