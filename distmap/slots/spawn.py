"""How a task process is started: its command, its environment, and what connects it to its parent.

Owns that and nothing after it. POSIX passes descriptors. Windows passes none: there the socket is shared by way of
standard input and the cells have a random name, the loop is a selector loop (see `driver/portal.py`), and large parts
go through the socket. That is written by the documentation and was never tried on a real machine.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from distmap.core.limits import LIMITS
from distmap.slots.control import anonymous_cells, blocks, clear
from distmap.tasks._typing import NamedTuple
from distmap.tasks.nesting import cores, nesting_environment
from distmap.transport.segments import Spare

#: The path comes by argument: what the parent can import its task processes can, and `__main__` is never run again.
_BOOT = (
    "import sys; sys.path[:] = sys.argv.pop().split(chr(10)); from distmap.slots.child import main; main(sys.argv[1:])"
)

_THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
)

#: By these mpiexec and srun connect the one process that they start. A task that imported mpi4py with them would take
#: that one's place, and wait for ever or end the whole MPI job.
_OF_MPI_RANK = ("PMIX_", "PMI_")

#: By how much sooner the system ends a task process than its parent when memory runs out; the most that it takes.
_OOM_MORE, _OOM_MOST = 300, 1000

#: glibc gives buffers above its threshold back to the kernel each time, which page-faults them anew.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


def environment(slots: int, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of task processes: `base` (ours, if not given) without the token and without what makes a process
    a rank of MPI; libraries held to their share of the cores.
    """
    share = str(max(1, cores() // slots))
    env = {
        **_MALLOC,
        **dict.fromkeys(_THREAD_CAPS, share),
        **(os.environ if base is None else base),
        **nesting_environment(slots),
    }
    return {name: value for name, value in env.items() if name != "DISTMAP_TOKEN" and not name.startswith(_OF_MPI_RANK)}


class Started(NamedTuple):
    """A process that was started, and this end of what connects us to it."""

    popen: subprocess.Popen[bytes]
    sock: socket.socket
    blocks: list[memoryview]
    #: Its cells and crash log; -1 where there is no such descriptor.
    cells: int
    #: Readable once the process has ended; -1 where there is no such descriptor.
    pidfd: int


def start(env: Mapping[str, str], path: Sequence[str], spare: Spare) -> Started:
    """Start a task process, without waiting for it.

    Raises:
        OSError: it could not be started; nothing is left behind.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    words = [str(os.getpid()), *map(str, spare), str(LIMITS.leave_seconds), "\n".join(path)]
    try:
        with theirs:
            started = _start_windows(theirs, words, env) if os.name == "nt" else _start_posix(theirs, words, env)
    except BaseException:
        ours.close()
        raise
    return Started(started[0], ours, *started[1:])


def _command() -> list[str]:
    """The interpreter with the flags of ours (-W, -X, -O, -B ...), as multiprocessing starts it."""
    return [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", _BOOT]  # type: ignore[attr-defined]


_Parts = tuple[subprocess.Popen[bytes], list[memoryview], int, int]


def _start_posix(theirs: socket.socket, words: list[str], env: Mapping[str, str]) -> _Parts:
    cells = anonymous_cells()
    try:
        cleared = _cleared(blocks(cells))
        popen = subprocess.Popen(
            [*_command(), str(theirs.fileno()), str(cells), *words],
            env=env,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), cells),
            # A group of its own: Ctrl-C in a terminal is the parent's affair, and what a task started ends with it.
            start_new_session=True,
        )
    except BaseException:
        os.close(cells)
        raise
    pidfd = -1
    if sys.platform == "linux":
        _offer(popen.pid)
        with contextlib.suppress(OSError):  # an old kernel, or no descriptor to be had: its end is looked for instead
            pidfd = os.pidfd_open(popen.pid)
    return popen, cleared, cells, pidfd


def _offer(pid: int) -> None:
    """If memory runs out, the system is to end this process rather than its parent, which keeps the results."""
    with contextlib.suppress(OSError):  # it has ended already, or this system does not let us
        with open("/proc/self/oom_score_adj", "rb", buffering=0) as file:
            ours = int(file.read(16))
        with open(f"/proc/{pid}/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"%d" % min(_OOM_MOST, ours + _OOM_MORE))


def _start_windows(theirs: socket.socket, words: list[str], env: Mapping[str, str]) -> _Parts:
    if sys.platform != "win32":
        raise NotImplementedError
    import secrets

    name = f"distmap-{secrets.token_hex(16)}"
    cleared = _cleared(blocks(name))
    popen = subprocess.Popen([*_command(), "stdin", name, *words], env=env, stdin=subprocess.PIPE)
    assert popen.stdin is not None
    with popen.stdin as pipe:
        pipe.write(theirs.share(popen.pid))
    return popen, cleared, -1, -1


def _cleared(made: list[memoryview]) -> list[memoryview]:
    for block in made:
        clear(block)
    return made
