"""Set-ups run where items run: in every slot or once on every worker, also in what comes later."""

from __future__ import annotations

import os
import re
import time

import pytest

import distmap
from distmap.testing.workers import WorkerProcess


def setup():
    os.environ["SET_UP_RAN"] = str(int(os.environ.get("SET_UP_RAN", "0")) + 1)
    return os.getpid()


def look(x):
    time.sleep(0.02)
    return os.getpid(), os.environ.get("SET_UP_RAN")


def slots(pool):
    return {worker.name: worker.slots for worker in pool.workers}


def test_every_slot_is_set_up_once(pool):
    """Each task process runs it, results are by worker and slot, and every item finds it done, once."""
    got = pool.run(setup)
    assert {name: len(values) for name, values in got.items()} == slots(pool)
    pids = [pid for values in got.values() for pid in values]
    assert len(set(pids)) == len(pids) == sum(slots(pool).values())
    assert got == dict(got)
    assert repr(got) == repr(dict(got))
    (first, *_) = got
    assert got[first][0] in pids
    for _ in range(2):
        assert set(pool.map(look, range(12), chunksize=1)) <= {(pid, "1") for pid in pids}
    assert pool.run(lambda: os.environ.pop("SET_UP_RAN")) == {name: ["1"] * n for name, n in slots(pool).items()}


@pytest.mark.own_leaks("processes", "descriptors")  # slots of the shared pool get other processes
def test_a_process_that_takes_the_place_of_another_is_set_up(pool):
    """While the result is kept, a slot whose process died is set up again before its next item; then it is not."""
    kept = pool.run(setup)
    for n, right in ((0, {"1"}), (1, {"1", None})):
        victim = next(iter(kept.values()))[0] if n == 0 else pool.map(look, [0])[0][0]
        pool.map(kill, [victim] * 8, chunksize=1, on_error="skip")
        assert {found for _, found in pool.map(look, range(12), chunksize=1)} == right
        kept = None
    pool.run(lambda: os.environ.pop("SET_UP_RAN", None))


def kill(pid):
    """End the process if it is this one."""
    time.sleep(0.02)
    if os.getpid() == pid:
        os._exit(1)


def test_slots_and_workers_that_come_are_set_up_first():
    """What joins while a map runs computes nothing before it was set up; its results are added."""
    with WorkerProcess("--port", "0", "--slots", "2", "--name", "late") as late, distmap.Pool(1) as pool:
        both, once = pool.run(setup), pool.run(lambda: os.getpid(), each="worker")

        def feed():
            # There is work until the new worker has been set up, however long that takes on a busy machine.
            end = time.monotonic() + 12
            while len(both.get("late", ())) < 2 and time.monotonic() < end:
                yield 0
            yield from range(60)

        job = pool.map_async(look, feed(), chunksize=1)
        pool.add(late.url)
        found = job.result(15)
        assert {ran for _, ran in found} == {"1"}
        assert len({pid for pid, _ in found}) == 3
        assert {name: len(values) for name, values in both.items()} == {"local": 1, "late": 2}
        assert set(once) == {"local", "late"}
        assert once["late"] in both["late"]


def test_once_on_each_worker(pool):
    """`each="worker"` runs in one slot of each worker; the result is the value itself."""
    got = pool.run(os.getpid, each="worker")
    every = pool.run(os.getpid)
    assert {name: pid in every[name] for name, pid in got.items()} == dict.fromkeys(slots(pool), True)
    with pytest.raises(ValueError, match='each must be "slot" or "worker"'):
        pool.run(setup, each="host")


@pytest.mark.parametrize("each", ["slot", "worker"])
def test_errors_name_worker_and_slot(pool, each):
    """What the function raises comes with its own type, and says where."""

    def fail():
        raise LookupError("no driver")

    with pytest.raises(LookupError, match="no driver") as caught:
        pool.run(fail, each=each)
    (note,) = caught.value.__notes__
    names = "|".join(slots(pool))
    where = "in slot [0-9] on" if each == "slot" else "on"
    assert re.search(rf"fail\(\) {where} worker ({names}), attempt 1", note)
    got = pool.run(fail, each=each, on_error="return")
    assert set(got) == set(slots(pool))
    assert all(isinstance(error, LookupError) for error in got.failures.values())
    assert dict(pool.run(fail, each=each, on_error="skip")) == {}
    assert pool.map(abs, [-1]) == [1]  # a failed set-up is not kept


@pytest.mark.own_leaks("processes", "descriptors")
@pytest.mark.parametrize(
    ("fn", "kind", "words"),
    [
        pytest.param(lambda: time.sleep(30), distmap.ItemTimeout, "longer than timeout=0.2 s", id="too-long"),
        pytest.param(lambda: os._exit(3), distmap.PoisonItemError, "exited with code 3", id="exits"),
    ],
)
def test_a_set_up_that_ends_its_process(fn, kind, words):
    """A call that takes too long or kills its process is an error that names its slot."""
    with distmap.Pool(1) as pool, pytest.raises(kind, match=r"in slot 0 on worker local.*") as caught:
        pool.run(fn, timeout=0.2)
    assert words in str(caught.value)


@pytest.mark.own_leaks("processes", "descriptors")  # what multiprocessing keeps for all its pools
@pytest.mark.parametrize("kind", ["worker", "executor"])
def test_a_set_up_that_takes_all_workers_along(kind):
    """Nothing is left that could have a result: an error says who left, and why, not an empty mapping."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    if kind == "worker":
        with WorkerProcess("--port", "0", "--slots", "1", "--name", "brittle") as worker:
            with distmap.Pool(worker.url, connect_timeout=1) as pool:
                with pytest.raises(distmap.NoWorkers, match=r"every worker left while .*: brittle \(nothing has"):
                    pool.run(lambda: os.kill(os.getppid(), 9))
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as made, distmap.Pool(made) as pool:
        with pytest.raises(distmap.NoWorkers, match=r"every worker left while .*: ProcessPoolExecutor \(.*is broken"):
            pool.run(lambda: os.kill(os.getppid(), 9))


def interrupt_by_itself():
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["run", "initializer"])
def test_a_set_up_that_raises_keyboard_interrupt(how):
    """Nobody interrupted anything: it is an error like any other, and the call ends."""
    with distmap.Pool(1, interrupt_by_itself if how == "initializer" else None) as pool:
        with pytest.raises(distmap.RemoteError, match="KeyboardInterrupt"):
            pool.run(interrupt_by_itself) if how == "run" else pool.map(abs, [1])


def test_only_where_the_tags_are(pool):
    """Tags that nobody has are an error at once; elsewhere the set-up does not run."""
    with pytest.raises(distmap.NoWorkers, match=r"no worker has the tags \['gpu'\]"):
        pool.run(setup, tags=["gpu"])
    with WorkerProcess("--port", "0", "--slots", "1", "--name", "tagged", "--tag", "gpu") as tagged:
        with distmap.Pool([tagged.url, 1]) as mixed:
            kept = mixed.run(setup, tags=["gpu"])
            assert list(kept) == ["tagged"]
            found = dict(mixed.map(look, range(12), chunksize=1))
            assert {ran for pid, ran in found.items() if pid == kept["tagged"][0]} <= {"1"}
            assert {ran for pid, ran in found.items() if pid != kept["tagged"][0]} == {None}


def test_what_it_prints_is_shown(pool, capsys):
    """Output lands here, named by its worker, before `run` returns; or nowhere."""
    pool.run(lambda: print("hello"))
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines == sorted(f"[{name}] hello" for name, n in slots(pool).items() for _ in range(n))
    pool.run(lambda: print("hello"), output=False)
    assert capsys.readouterr().out == ""


def notebook(**names):
    """Functions of a cell, which share its globals."""
    space = {"__name__": "__main__", **names}
    exec(
        "def rebind():\n    global model\n    model = 'loaded'\n"
        "def fill():\n    table['model'] = 'loaded'\n"
        "def given(*args):\n    global model\n    model = args[0]\n"
        "def first(x):\n    return globals().get('model'), table.get('model'), x and model\n"
        "def second(x):\n    return model, table.get('model'), config\n",
        space,
    )
    return space


@pytest.mark.parametrize(
    ("way", "right"),
    [
        pytest.param("rebind", ("loaded", None), id="a-global-that-is-set"),
        pytest.param("fill", (None, "loaded"), id="a-global-that-is-filled"),
    ],
)
@pytest.mark.parametrize("how", ["run", "initializer"])
def test_globals_of_a_notebook_are_as_the_set_up_left_them(how, way, right):
    """Functions of later calls find what it set, however many functions there are; their own variables are fresh."""
    space = notebook(model=None, table={}, config=1)
    with distmap.Pool(1, space[way] if how == "initializer" else None) as pool:
        kept = pool.run(space[way]) if how == "run" else None
        assert pool.map(space["first"], [0, 0]) == [(*right, 0)] * 2
        for config in (1, 2):
            space["config"] = config
            assert pool.submit(space["second"], 0).result() == (*right, config)
            assert pool.map(space["second"], [0]) == [(*right, config)]
        del kept


def test_an_initializer_runs_once_in_each_process():
    """Two calls of two functions and a submit find one run; what it captures having changed, it runs again."""
    seen = []
    space = {"__name__": "__main__", "level": 1}
    exec(
        "def init(big):\n    import builtins\n    builtins.ran = getattr(builtins, 'ran', ()) + (level, big.size)",
        space,
    )
    big = pytest.importorskip("numpy").zeros(200_000)

    def ran(x):
        import builtins

        return builtins.ran

    with distmap.Pool(1, space["init"], (big,)) as pool:
        seen += pool.map(ran, [0])
        seen += [pool.submit(ran, 0).result()]
        space["level"] = 2
        seen += pool.map(lambda x: ran(x), [0])
    assert seen == [(1, 200_000)] * 2 + [(1, 200_000, 2, 200_000)]


def test_an_initializer_that_fails_is_the_error_of_the_call():
    """It names the slot, no item runs, and the pool goes on with what needs none."""
    with distmap.Pool(1, lambda: 1 // 0) as pool:
        with pytest.raises(ZeroDivisionError) as caught:
            pool.map(abs, [1])
        assert "slot 0" in "".join(caught.value.__notes__)
    with distmap.Pool(1, print, (open,)) as pool:
        assert pool.map(abs, [-1]) == [1]
    with pytest.raises(TypeError, match="initializer must be a function; got 5"):
        distmap.Pool(1, 5)


def test_slots_that_are_recycled_are_set_up():
    """With `maxtasksperchild` every fresh process is set up before its first item, though nobody hears of it."""
    with distmap.Pool(1, maxtasksperchild=2) as pool:
        kept = pool.run(setup)
        found = pool.map(look, range(7), chunksize=1)
        assert len({pid for pid, _ in found}) >= 3
        assert {ran for _, ran in found} == {"1"}
        del kept


def test_a_worker_where_it_fails_is_left_out():
    """A worker that comes later and cannot be set up takes nothing; if no other is there the error says why."""
    with WorkerProcess("--port", "0", "--slots", "1", "--name", "late", "--tag", "late") as late:
        with distmap.Pool(1, connect_timeout=1) as pool:
            kept = pool.run(lambda: 1 // (os.getppid() == here), each="worker") if (here := os.getpid()) else None
            pool.add(late.url)
            pool.wait_for_workers(2, 10)
            assert {pid for pid, _ in pool.map(look, range(12), chunksize=1)} == set(pool.run(os.getpid)["local"])
            assert list(kept.failures) == [("late", 0)]
            assert {worker.name: worker.state for worker in pool.workers} == {"local": "ready", "late": "unready"}
            with pytest.raises(distmap.NoWorkers, match=r"what set them up failed \(<lambda> on late\)"):
                pool.map(abs, [1], tags=["late"])
            kept.close()
            assert len({pid for pid, _ in pool.map(look, range(12), chunksize=1)}) == 2


@pytest.mark.own_leaks("processes", "descriptors")  # what multiprocessing keeps for all its pools
@pytest.mark.parametrize("kind", ["inline", "threads", "processes"])
def test_over_other_engines(kind):
    """In this process, and in threads and processes of an executor: set up before the first item."""
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    from multiprocessing import get_context

    if kind == "inline":
        with distmap.Pool("inline") as pool:
            kept = pool.run(setup)
            assert kept == {"inline": [os.getpid()]}
            assert pool.map(look, [0]) == [(os.getpid(), "1")]
            assert os.environ.pop("SET_UP_RAN") == "1"
        return
    made = ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    with made, distmap.Pool(made) as pool:
        kept = pool.run(note)
        assert [len(values) for values in kept.values()] == [2]
        assert all(pool.map(noted, range(8), chunksize=1))


_noted = __import__("threading").local()


def note():
    _noted.here = True


def noted(x):
    time.sleep(0.02)
    return getattr(_noted, "here", False)


def test_a_set_up_does_not_keep_its_pool_open():
    """`close` and `join` end a pool although a set-up is kept; the results stay, and new set-ups are refused."""
    pool = distmap.Pool(1)
    kept = pool.run(os.getpid)
    pool.close()
    pool.join()
    assert len(kept["local"]) == 1
    with pytest.raises(distmap.PoolClosed):
        pool.run(os.getpid)


def test_run_is_no_map(pool):
    """`pool.last` and `pool.jobs` tell of maps only, and an option that has no meaning here is refused."""
    pool.map(abs, [1])
    last = pool.last
    pool.run(os.getpid)
    assert pool.last is last
    assert pool.jobs == []
    with pytest.raises(TypeError, match="chunksize"):
        pool.run(os.getpid, chunksize=3)
