"""Two machines in one: a network namespace of its own for a worker, and a link to it that drops and delays packets.

The link is this process: it carries IP packets between two TUN devices. So the two ends have real TCP, which sees real
loss, and no packet filter or `netem` is needed, only Linux with /dev/net/tun and namespaces. What uses it runs in a
user and network namespace of its own; `in_namespace` sees to that.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType

#: Addresses of this end and of the worker's.
HERE, THERE = "10.99.0.1", "10.99.0.2"

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
#: Seconds of `rate` that wait in the queue of a slow link; what comes then is dropped.
_QUEUE_SECONDS = 0.5


def possible() -> bool:
    """Whether this machine allows what this needs."""
    if not sys.platform.startswith("linux") or not os.access("/dev/net/tun", os.W_OK):
        return False
    probe = ["unshare", "-Urn", "ip", "tuntap", "add", "dev", "probe", "mode", "tun"]
    try:
        return subprocess.run(probe, capture_output=True, timeout=10).returncode == 0
    except OSError:
        return False


def in_namespace(module: str, arguments: Sequence[str]) -> None:
    """Go on in a user and network namespace of our own, as `python -m module`. Returns if this is one already."""
    if os.environ.get("DISTMAP_CHAOS_NAMESPACE") != "yes":
        os.environ["DISTMAP_CHAOS_NAMESPACE"] = "yes"
        os.execvp("unshare", ["unshare", "-Urn", sys.executable, "-m", module, *arguments])
    subprocess.run("ip link set lo up".split(), check=True)


def open_tun(address: str) -> int:
    """A TUN device of this namespace with this address; gives its descriptor."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
    for command in ("ip link set lo up", f"ip address add {address}/24 dev tun0", "ip link set tun0 up"):
        subprocess.run(command.split(), check=True)
    return tun


class Link(threading.Thread):
    """Carries packets between two TUN devices; a context manager. Its attributes may be set at any time.

    Attributes:
        latency: seconds that a packet travels, in each direction.
        jitter: most seconds that are added, at random for each packet: so they overtake each other.
        loss: share of the packets that is dropped.
        rate: bytes per second in each direction; None: no limit.
        down: whether all packets are dropped.
    """

    def __init__(self, ends: tuple[int, int], seed: int) -> None:
        super().__init__(name="link")
        self.latency = self.jitter = self.loss = 0.0
        self.rate: float | None = None
        self.down = False
        self.carried = self.dropped = 0
        self._ends = ends
        self._random = random.Random(seed)
        self._over = threading.Event()
        #: Packets under way: when each arrives, a number, at which end, and its bytes.
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._count = itertools.count()
        #: By direction: when the link is free again.
        self._free = [0.0, 0.0]

    def __enter__(self) -> Link:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join(10)
        for end in self._ends:
            os.close(end)

    def run(self) -> None:
        while not self._over.is_set():
            wait = 0.2
            if self._under_way:
                wait = min(wait, max(0.0, self._under_way[0][0] - time.monotonic()))
            readable, _, _ = select.select(self._ends, [], [], wait)
            for end in readable:
                self._take(self._ends.index(end), os.read(end, 65536))
            now = time.monotonic()
            while self._under_way and self._under_way[0][0] <= now:
                _, _, to, packet = heapq.heappop(self._under_way)
                self.carried += 1
                os.write(self._ends[to], packet)

    def _take(self, origin: int, packet: bytes) -> None:
        now = time.monotonic()
        start = now if self.rate is None else max(now, self._free[origin])
        if self.down or self._random.random() < self.loss or start - now > _QUEUE_SECONDS:
            self.dropped += 1
            return
        if self.rate is not None:
            self._free[origin] = start = start + len(packet) / self.rate
        due = start + self.latency + self._random.uniform(0, self.jitter)
        heapq.heappush(self._under_way, (due, next(self._count), 1 - origin, packet))


class FarWorker:
    """A worker in a namespace of its own, which is reached over a Link only; a context manager."""

    def __init__(self, *args: str, seed: int = 0) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = ["unshare", "-n", sys.executable, "-m", "chaos.packets", str(theirs.fileno()), *args]
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            here = open_tun(HERE)
            ours.settimeout(20)
            _, [there], _, _ = socket.recv_fds(ours, 1, 1)
        self.link = Link((here, there), seed)
        self.log: list[str] = []
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        #: What it printed: its URL.
        self.url = self.process.stdout.readline().rpartition(" ")[2].strip()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log += self.process.stderr

    def __enter__(self) -> FarWorker:
        self.link.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.terminate()  # twice: at once
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reader.join(10)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.link.__exit__(kind, error, trace)


def main() -> None:
    """The far end: a device whose descriptor goes to the other namespace, then a worker."""
    from chaos.shortened import worker_command

    tun = open_tun(THERE)
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        socket.send_fds(parent, [b"x"], [tun])
    command = worker_command("--host", THERE, "--port", "8786", *sys.argv[2:])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
