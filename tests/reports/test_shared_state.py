"""What processes of one machine share works on slots of this machine as in multiprocessing, elsewhere it is refused."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from typing import Any

import pytest

import distmap

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors")

CONTEXT = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def manager() -> Iterator[Any]:
    """A manager process, shared by the tests of this file."""
    with CONTEXT.Manager() as found:
        yield found


@pytest.fixture(scope="module")
def keyed() -> Iterator[Any]:
    """A manager with a key of its own."""
    from multiprocessing.managers import SyncManager

    found = SyncManager(authkey=b"of its own", ctx=CONTEXT)
    found.start()
    yield found
    found.shutdown()


def put(queue: Any, x: int) -> int:
    queue.put(x)
    return x


def note(mapping: Any, x: int) -> int:
    mapping[x] = os.getpid() != mapping["pid"]
    return x


def count(value: Any, x: int) -> int:
    with value.get_lock():
        value.value += x
    return x


def fill(array: Any, x: int) -> int:
    array[x] = x
    return x


def write(memory: Any, x: int) -> int:
    memory.buf[x] = x
    return x


def write_by_name(name: str, x: int) -> int:
    memory = shared_memory.SharedMemory(name=name)
    memory.buf[x] = x
    memory.close()
    return x


def send(connection: Any, x: int) -> int:
    connection.send(x)
    return x


def send_bytes(sock: Any, x: int) -> int:
    sock.sendall(bytes([x]))
    return x


def locked(lock: Any, x: int) -> int:
    with lock:
        return x


def release(semaphore: Any, x: int) -> int:
    semaphore.release()
    return x


def wake(event: Any, x: int) -> int:
    event.set()
    return x


def taken(queue: Any) -> list[Any]:
    return sorted(queue.get(timeout=10) for _ in range(3))


def read(sock: Any) -> list[int]:
    found: list[int] = []
    while len(found) < 3:
        found += sock.recv(3)
    return sorted(found)


def of_manager_queue(manager: Any) -> tuple[Any, ...]:
    queue = manager.Queue()
    return put, queue, lambda: taken(queue), [1, 2, 3]


def of_manager_dict(manager: Any) -> tuple[Any, ...]:
    made = manager.dict(pid=os.getpid())
    return note, made, lambda: sorted(x for x in made.keys() if x != "pid" and made[x]), [1, 2, 3]


def of_nested_proxies(manager: Any) -> tuple[Any, ...]:
    queue = manager.Queue()
    return (lambda outer, x: put(outer[0], x)), manager.list([queue]), lambda: taken(queue), [1, 2, 3]


def of_manager_lock(manager: Any) -> tuple[Any, ...]:
    return locked, manager.Lock(), lambda: None, None


def of_queue(_: Any) -> tuple[Any, ...]:
    queue = CONTEXT.Queue()

    def look() -> Any:
        try:
            return taken(queue)
        finally:
            queue.close()

    return put, queue, look, [1, 2, 3]


def of_simple_queue(_: Any) -> tuple[Any, ...]:
    queue = CONTEXT.SimpleQueue()
    return put, queue, lambda: (sorted(queue.get() for _ in range(3)), queue.close())[0], [1, 2, 3]


def of_event(_: Any) -> tuple[Any, ...]:
    event = CONTEXT.Event()
    return wake, event, lambda: event.wait(10), True


def of_lock(_: Any) -> tuple[Any, ...]:
    lock = CONTEXT.Lock()
    return locked, lock, lambda: lock.acquire(timeout=10), True


def of_semaphore(_: Any) -> tuple[Any, ...]:
    semaphore = CONTEXT.Semaphore(0)
    return release, semaphore, lambda: [semaphore.acquire(timeout=10) for _ in range(3)], [True] * 3


def of_value(_: Any) -> tuple[Any, ...]:
    value = CONTEXT.Value("i", 0)
    return count, value, lambda: value.value, 6


def of_array(_: Any) -> tuple[Any, ...]:
    array = CONTEXT.Array("i", 4)
    return fill, array, lambda: list(array), [0, 1, 2, 3]


def of_raw_array(_: Any) -> tuple[Any, ...]:
    array = multiprocessing.RawArray("d", 4)
    return fill, array, lambda: list(array), [0.0, 1.0, 2.0, 3.0]


def of_shared_memory(_: Any) -> tuple[Any, ...]:
    memory = shared_memory.SharedMemory(create=True, size=4)

    def look() -> Any:
        try:
            return bytes(memory.buf[:4])
        finally:
            memory.close()
            memory.unlink()

    return write, memory, look, bytes([0, 1, 2, 3])


def of_shared_memory_by_name(_: Any) -> tuple[Any, ...]:
    *_, look, right = made = of_shared_memory(None)
    return write_by_name, made[1].name, look, right


def of_connection(_: Any) -> tuple[Any, ...]:
    left, right = CONTEXT.Pipe()

    def look() -> Any:
        right.close()
        with left:
            return sorted(left.recv() for _ in range(3) if left.poll(10))

    return send, right, look, [1, 2, 3]


def of_socket(_: Any) -> tuple[Any, ...]:
    left, right = socket.socketpair()

    def look() -> Any:
        with left, right:
            left.settimeout(10)
            return read(left)

    return send_bytes, right, look, [1, 2, 3]


MAKERS = [
    of_manager_queue, of_manager_dict, of_nested_proxies, of_manager_lock, of_queue, of_simple_queue, of_event,
    of_lock, of_semaphore, of_value, of_array, of_raw_array, of_shared_memory, of_shared_memory_by_name, of_connection,
    of_socket,
]  # fmt: skip
SENTENCE = "works in the process that made it and on slots of its machine"

_given: list[Any] = []


def take(*given: Any) -> None:
    _given[:] = given


def use_given(x: int) -> list[Any]:
    return [use(shared, x) for use, shared in _given]


@pytest.fixture(scope="module", autouse=True)
def _lasting(local_pool: distmap.Pool, remote_pool: distmap.Pool, manager: Any) -> None:
    """What multiprocessing keeps as long as the process is there before the first test."""
    assert not manager.list()
    multiprocessing.RawValue("i")
    for pool in (local_pool, remote_pool):
        pool.map(abs, [1])


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__[3:])
def test_on_slots_of_this_machine(make: Callable[[Any], Any], local_pool: distmap.Pool, manager: Any) -> None:
    """As an argument and captured by the function: all slots use one and the same."""
    use, shared, look, right = make(manager)
    assert local_pool.starmap(use, [(shared, 1), (shared, 2)], chunksize=1) == [1, 2]
    assert local_pool.map(lambda x: use(shared, x), [3]) == [3]
    assert look() == right


def test_submitted_one_by_one(manager: Any) -> None:
    """Submits share what they mention; it lives as long as they need it, also if nobody here holds it any more."""
    use, shared, look, right = of_queue(manager)
    with distmap.Pool(1) as pool:
        futures = [pool.submit(use, shared, x) for x in (1, 2)]
        futures += [pool.submit(lambda: use(shared, 3)), pool.submit(locked, CONTEXT.Lock(), 4)]
        assert [future.result(15) for future in futures] == [1, 2, 3, 4]
        assert look() == right


def test_by_the_initializer(manager: Any) -> None:
    """Through `initargs`, the way of multiprocessing.Pool: all kinds at once, also in slots that are replaced."""
    rows = [make(manager) for make in MAKERS]
    given = [row[:2] for row in rows]
    with distmap.Pool(1, initializer=take, initargs=given, maxtasksperchild=1) as pool:
        assert pool.map(use_given, [1, 2, 3], chunksize=1) == [[x] * len(rows) for x in (1, 2, 3)]
    for make, (_, _, look, right) in zip(MAKERS, rows, strict=True):
        assert look() == right, make.__name__


@pytest.mark.parametrize(
    "make", [make for make in MAKERS if make is not of_shared_memory_by_name], ids=lambda make: make.__name__[3:]
)
def test_refused_elsewhere(make: Callable[[Any], Any], remote_pool: distmap.Pool, manager: Any) -> None:
    """A worker elsewhere says which object it is and why it cannot reach it; nothing of it was sent there."""
    use, shared, look, _ = make(manager)
    with pytest.raises(distmap.PayloadError, match=SENTENCE) as captured:
        remote_pool.map(lambda x: use(shared, x), [1])
    with pytest.raises(distmap.PayloadError, match=SENTENCE):
        remote_pool.map(use, [shared], [1])
    remote_pool.last = None
    del captured
    # What the row would have looked at is nobody's now.
    for cell in look.__closure__ or ():
        if hasattr(cell.cell_contents, "close"):
            cell.cell_contents.close()
    if make is of_connection:
        shared.close()
    if make is of_shared_memory:
        shared.unlink()


def test_refused_in_executors() -> None:
    """Processes of an executor cannot reach it either; threads of this process can."""
    lock = CONTEXT.Lock()
    with concurrent.futures.ThreadPoolExecutor(1) as threads, distmap.Pool(threads) as pool:
        assert pool.map(locked, [lock], [1]) == [1]
    with concurrent.futures.ProcessPoolExecutor(1, CONTEXT) as processes, distmap.Pool(processes) as pool:
        with pytest.raises(distmap.PayloadError, match=SENTENCE):
            pool.map(locked, [lock], [1])
        pool.last = None


def test_a_manager_with_a_key_of_its_own(keyed: Any, local_pool: distmap.Pool) -> None:
    """Its proxies bring the key along, which is in no payload."""
    queue = keyed.Queue()
    assert local_pool.starmap(put, [(queue, 1), (queue, 2), (queue, 3)], chunksize=1) == [1, 2, 3]
    assert taken(queue) == [1, 2, 3]
    from distmap.tasks.code import dump_code

    code = dump_code(lambda x: queue.put(x))
    assert not any(b"of its own" in bytes(part) for part in code.payload.parts)


def test_the_key_is_that_of_this_process(local_pool: distmap.Pool, manager: Any) -> None:
    """Where a proxy has been used, what else needs the key works too; it is neither on the command line nor in the
    environment."""

    def look(queue: Any) -> Any:
        import multiprocessing

        key = bytes(multiprocessing.current_process().authkey)
        with open("/proc/self/cmdline", "rb") as line, open("/proc/self/environ", "rb") as environ:
            return key, key in line.read() + environ.read()

    assert local_pool.map(look, [manager.Queue()]) == [(bytes(multiprocessing.current_process().authkey), False)]


def test_a_lock_of_the_default_context(pool: distmap.Pool) -> None:
    """Where that is fork, the error says what to make instead."""
    lock = multiprocessing.get_context("fork").Lock()
    with pytest.raises(distmap.PayloadError, match=r'with multiprocessing.get_context\("spawn"\)'):
        pool.map(lambda x: locked(lock, x), [1])
    pool.last = None


def test_a_proxy_comes_back(local_pool: distmap.Pool, manager: Any) -> None:
    """One that went out comes back usable; a pipe that a task made does not."""
    mapping = manager.dict()
    [back] = local_pool.map(lambda proxy: proxy, [mapping])
    back["seen"] = 1
    assert dict(mapping) == {"seen": 1}
    with pytest.raises(distmap.PayloadError, match=SENTENCE):
        local_pool.map(lambda _: multiprocessing.Pipe()[0], [1])
    local_pool.last = None


def test_memory_that_a_task_used_is_not_removed() -> None:
    """Shared memory outlives the slots that attached to it or made it: it goes when it is unlinked."""

    def use(name: str) -> str:
        shared_memory.SharedMemory(name=name).close()
        made = shared_memory.SharedMemory(create=True, size=10)
        made.buf[0] = 7
        made.close()
        return made.name

    mine = shared_memory.SharedMemory(create=True, size=10)
    with distmap.Pool(1) as pool:
        [name] = pool.map(use, [mine.name])
    for memory in (mine, shared_memory.SharedMemory(name=name)):
        assert memory.buf[0] in (0, 7)
        memory.close()
        memory.unlink()
    with pytest.raises(FileNotFoundError):
        shared_memory.SharedMemory(name=name)


def test_what_it_needs_does_not_import() -> None:
    """That costs the call, not the task process."""

    def block(_: int) -> int:
        sys.modules["distmap.tasks.shared"] = None  # type: ignore[assignment]
        return os.getpid()

    lock = CONTEXT.Lock()
    with distmap.Pool(1) as pool:
        [pid] = pool.map(block, [0])
        with pytest.raises(distmap.PayloadError, match=r"distmap\.tasks\.shared"):
            pool.map(locked, [lock], [1])
        with pytest.raises(ImportError, match=r"distmap\.tasks\.shared"):
            pool.map(lambda x: locked(lock, x), [1])
        assert pool.map(lambda _: os.getpid(), [0]) == [pid]
        pool.last = None


def test_plain_numbers_of_ctypes(pool: distmap.Pool) -> None:
    """What is of ctypes and in no shared memory travels as before, also once shared memory of its type is there."""
    import ctypes

    shared = multiprocessing.RawValue("i", 1)
    assert [number.value for number in pool.map(lambda x: ctypes.c_int(x.value + 1), [ctypes.c_int(3)])] == [4]
    assert shared.value == 1
