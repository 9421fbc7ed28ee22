"""The shared memory cells of one task process, and its crash log behind them.

Owns the layout. The file (no name, passed by descriptor) begins with one page of cells: `BLOCKS` blocks of eight 64-bit
cells. A task process takes block n % BLOCKS for the n-th task that it was sent, so parent and child never disagree, and
what is said about one attempt cannot overwrite what is said about the next. One more block, `PROCESS`, tells of the
process itself. After the page comes what faulthandler wrote when the process crashed.

A block is handed to `Runner.run` as its `cells`. Two processes write it without a lock, so the order counts: before a
task begins the child claims its block (CELL_ATTEMPT) and then reads CELL_STOP_ATTEMPT; the parent writes the stop and
then reads CELL_ATTEMPT. At least one of the two sees what the other wrote, so a task that was not claimed can be taken
back at once, however long the child is busy with another.
Afterwards the child leaves `finished_marker(attempt)` there, until the block's next task.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it is not in typeshed
import mmap
import os
import sys

from distmap.tasks.cells import CELL_AT, CELL_ATTEMPT, CELL_FLUSH, CELL_INTERRUPT, CELL_STOP, CELL_STOP_ATTEMPT
from distmap.transport.segments import anonymous_file

#: Nobody's attempt.
NOBODY = -1

#: The attempt's code and input are being loaded: no item runs yet.
LOADING = -1

BLOCKS = 32
#: Index of the block in which the process itself, between two tasks, tells what it holds; NOBODY until it has looked.
PROCESS = BLOCKS
#: Its cells: threads, open files, and processes that `multiprocessing` keeps for it.
HELD = CELL_THREADS, CELL_FILES, CELL_PROCESSES = range(3)
#: In the same block: 1 if the process leaves because its own end of the socket is closed.
CELL_CLOSED = 3
#: In the same block: values of `distmap.per_process` that it has computed.
CELL_KEPT = 4
_BLOCK = 8
_PAGE = 4096
_LOG = 4000
#: Most bytes of the log that are read of where all threads stand.
_STACKS = 256 << 10
#: On this signal a task process writes where it stands to its log, whatever it does; 0: there is none. One that no
#: program uses: the highest ones are left to debuggers.
STACK_SIGNAL = getattr(_signal, "SIGRTMAX", 0) - 5 if hasattr(_signal, "SIGRTMAX") else getattr(_signal, "SIGUSR2", 0)


def anonymous_cells() -> int:
    """A descriptor of a fresh file of cells. It has no name and is gone with its last user."""
    fd = anonymous_file("cells")
    os.ftruncate(fd, _PAGE)
    return fd


def blocks(file: int | str) -> list[memoryview]:
    """The blocks of the file and that of the process, each as eight signed 64-bit cells.

    The descriptor of the file may be closed afterwards.

    On Windows `file` is a name: descriptors do not pass there.
    """
    if sys.platform == "win32":
        view = memoryview(mmap.mmap(-1, _PAGE, tagname=str(file))).cast("q")
    else:
        view = memoryview(mmap.mmap(int(file), _PAGE)).cast("q")
    return [view[n * _BLOCK : (n + 1) * _BLOCK] for n in range(BLOCKS + 1)]


def clear(cells: memoryview) -> None:
    """Nobody's block: no attempt runs in it, none is to be stopped or interrupted."""
    cells[CELL_ATTEMPT] = cells[CELL_AT] = cells[CELL_STOP_ATTEMPT] = cells[CELL_INTERRUPT] = NOBODY
    cells[CELL_STOP] = cells[CELL_FLUSH] = 0


def finished_marker(attempt: int) -> int:
    """What CELL_ATTEMPT holds after the attempt: it no longer runs, but nobody may think that it has not begun."""
    return -2 - attempt


def crash_log(fd: int, *, whole: bool = False) -> str:
    """What the process wrote when it crashed, from its beginning; empty if nothing, or no descriptor (-1).

    `whole`: as much as the stacks of all threads may be.
    """
    if fd < 0:
        return ""
    return os.pread(fd, _STACKS if whole else _LOG, _PAGE).decode("utf-8", "replace").strip("\0\n ")


def log_size(fd: int) -> int:
    """Bytes in the crash log."""
    return max(0, os.fstat(fd).st_size - _PAGE) if fd >= 0 else 0


def seek_log(fd: int) -> None:
    """Let what is written to the descriptor land in the crash log."""
    os.lseek(fd, _PAGE, os.SEEK_SET)
