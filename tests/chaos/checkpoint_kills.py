"""Kill a kernel that maps with a checkpoint, at random instants, and make the call again until it ends.

    python tests/chaos/checkpoint_kills.py --kills 200 --seed 1

Every item notes that it runs. After each kill the checkpoint is read: none of the items that it has may ever run again.
When a call ends, every result must be right and in its place. The kinds of call take turns; with `--where remote` two
workers, each in a process of its own, dial the kernel, and outlive it.
"""

from __future__ import annotations

import json
import operator
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos.common import Place, arguments, processes, ran, runs, verdict, watchdog

CALLS = ("map", "starmap", "imap", "imap_unordered", "map_batches", "map_reduce", "combine")
ITEMS, SECONDS = 400, 0.003
#: Every so many items have a result that goes to a file of its own.
LARGE, LARGE_BYTES = 40, 300_000
#: Seconds that a call may take, kills aside.
DEADLINE = 60.0


def payload(x: int) -> bytes:
    """The result of an item; its bytes do not compress."""
    return random.Random(x).randbytes(LARGE_BYTES if x % LARGE == 7 else 20)


def made(path: str) -> Any:
    """The function: gives a list, so that results can be joined."""

    def work(x: int) -> list[tuple[int, bytes]]:
        ran(path, x)
        time.sleep(SECONDS)
        return [(x, payload(x))]

    return work


def call(pool: Any, kind: str, work: Any, path: str) -> list[tuple[int, bytes]]:
    """Make a call of that kind; the results in the order in which they came."""
    data, options = range(ITEMS), {"checkpoint": path, "progress": False}

    def batch(xs: Any) -> list[tuple[int, bytes]]:
        return [pair for x in xs for pair in work(x)]

    def pair(x: int, _: str) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = work(x)
        return found

    if kind == "starmap":
        found = pool.starmap(pair, [(x, "") for x in data], **options)
    elif kind == "map_batches":
        return list(pool.map_batches(batch, list(data), batch_size=7, **options))
    elif kind in ("map_reduce", "combine"):
        combine = operator.add if kind == "combine" else None
        found = [pool.map_reduce(work, data, operator.add, initial=[], combine=combine, **options)]
    else:
        found = list(getattr(pool, kind)(work, data, **options))
    return [one for results in found for one in results]


def child(kind: str, path: str, noted: str, out: str, where: str) -> None:
    """The kernel: makes the call, and writes down what it gave."""
    import distmap

    with distmap.Pool(2) if where == "local" else distmap.Pool(listen=where) as pool:
        if where != "local":
            pool.wait_for_workers(2, timeout=DEADLINE)
        found = call(pool, kind, made(noted), path)
    whole = Path(out + ".part")
    whole.write_text(json.dumps([(x, data.hex()) for x, data in found]))
    whole.rename(out)


def journaled(path: Path) -> set[int]:
    """The items whose results are in the checkpoint."""
    import distmap

    try:
        pairs = distmap.Checkpoint(path).results()
    except distmap.CheckpointError as error:
        if any(words in str(error) for words in ("there is no checkpoint", "nothing in it yet", "no results yet")):
            return set()
        raise
    found: set[int] = set()
    for _, value in pairs:
        for x, data in value:
            assert data == payload(x), f"the checkpoint has a wrong result of item {x}"
            found.add(x)
    return found


def lines_of(path: Path) -> int:
    """How many items were noted so far."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


class Killer:
    """Kills kernels, and keeps the figures."""

    def __init__(self, place: Place, seed: int, kills: int, where: str) -> None:
        self.place, self.left, self.where = place, kills, where
        self.draw = random.Random(f"{seed} {where}")
        self.figures: Counter[str] = Counter()
        self.problems: list[str] = []
        self.url = "local"
        self.workers: list[subprocess.Popen[bytes]] = []
        if where == "remote":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.url = f"wss://127.0.0.1:{free.getsockname()[1]}"
            command = [sys.executable, "-m", "distmap.worker.cli", self.url, "--slots", "1"]
            for name in ("one", "two"):
                log = (place.folder / f"worker-{name}.log").open("wb")
                self.workers.append(subprocess.Popen([*command, "--name", name], stdout=log, stderr=log))
                log.close()

    def run(self) -> None:
        """Call after call, until enough kernels were killed."""
        number = 0
        while self.left > 0 and not self.problems:
            self.one_call(CALLS[number % len(CALLS)], number)
            number += 1
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(timeout=30)

    def one_call(self, kind: str, number: int) -> None:
        """A call, killed a few times, then left to end."""
        folder = self.place.folder / f"{self.where}-{number}"
        folder.mkdir()
        path, noted, out = (folder / name for name in ("run.sqlite", "ran", "out"))
        kills = min(self.left, self.draw.randint(1, 5))
        known: set[int] = set()
        before: Counter[str] = Counter()
        while not out.exists():
            watchdog(3 * DEADLINE)
            killed = self.kernel(kind, path, noted, out, kill=kills > 0, left=ITEMS - len(known))
            if killed is not None and killed:
                kills -= 1
            now = runs(str(noted))
            again = [x for x in known if now[str(x)] != before[str(x)]]
            if again:
                self.problems.append(f"{kind} {number}: items {again[:5]} are in the checkpoint and ran again")
            if self.problems:
                return
            known, before = journaled(path), now
            self.figures["items in a checkpoint after a kill"] += len(known) if killed else 0
            self.figures["kills that left some items"] += bool(killed and 0 < len(known) < ITEMS)
        self.figures["calls that ended"] += 1
        self.figures["items that ran"] += now.total()
        self.figures["items that ran twice, lost with a kernel"] += now.total() - len(now)
        expected = [[x, payload(x).hex()] for x in range(ITEMS)]
        found = json.loads(out.read_text())
        if (sorted(found) if kind == "imap_unordered" else found) != expected:
            self.problems.append(f"{kind} {number}: wrong results")

    def kernel(self, kind: str, path: Path, noted: Path, out: Path, *, kill: bool, left: int) -> bool | None:
        """One kernel, with so many items to run; whether it was killed. None: it failed."""
        command = [sys.executable, __file__, "--child", kind, str(path), str(noted), str(out), self.url]
        log = self.place.folder / "kernel.log"
        until = lines_of(noted) + self.draw.randint(1, left or 1)
        with log.open("wb") as errors:
            process = subprocess.Popen(command, stdout=errors, stderr=errors, start_new_session=True)
        pause = DEADLINE
        if kill and self.draw.random() < 0.2:
            pause = self.draw.uniform(0, 1.0)  # it may not have begun
        elif kill:
            end = time.monotonic() + DEADLINE
            while lines_of(noted) < until and process.poll() is None and time.monotonic() < end:
                time.sleep(0.002)
            pause = self.draw.uniform(0, 0.2)
        try:
            code = process.wait(timeout=pause)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            code = -signal.SIGKILL
        if code == -signal.SIGKILL:
            if not kill:
                self.problems.append(f"{kind}: hung for {DEADLINE:g} s\n{log.read_text()[-2000:]}")
                return None
            self.left -= 1
            self.figures["kernels killed"] += 1
            self.wait_for_processes()
            return True
        if code:
            self.problems.append(f"{kind}: the kernel ended with code {code}\n{log.read_text()[-2000:]}")
            return None
        return False

    def wait_for_processes(self) -> None:
        """The processes of a killed kernel end by themselves; workers stay."""
        end = time.monotonic() + 10
        while True:
            left = {pid: line for pid, line in processes(self.place.mark).items() if "distmap.slots.child" in line}
            if self.where == "remote" or not left:
                return
            if time.monotonic() > end:
                self.problems.append(f"processes of a killed kernel are still there: {left}")
                return
            time.sleep(0.01)


def main() -> int:
    parser = arguments(__doc__, minutes=0)
    parser.add_argument("--kills", type=int, default=200, help="kernels to kill, at each place (%(default)s)")
    parser.add_argument("--where", choices=("local", "remote", "both"), default="both", help="(%(default)s)")
    parser.add_argument("--child", nargs=5, help="(used by the script itself)")
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return 0
    problems: list[str] = []
    figures: dict[str, object] = {"seed": args.seed}
    with Place() as place:
        for where in ("local", "remote") if args.where == "both" else (args.where,):
            begun = time.monotonic()
            killer = Killer(place, args.seed, args.kills, where)
            try:
                killer.run()
            finally:
                for worker in killer.workers:
                    worker.kill()
            figures |= {f"{where}: {name}": count for name, count in sorted(killer.figures.items())}
            figures[f"{where}: seconds"] = round(time.monotonic() - begun)
            problems += killer.problems
        problems += [f"left behind: {one}" for one in place.left()]
    return verdict(figures, problems)


if __name__ == "__main__":
    sys.exit(main())
