"""What `Pool()` is inside a plan."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading

import distmap
from distmap.calls.plan import follows_plan


class Made:
    """Takes arguments as a pool does."""

    @follows_plan
    def __init__(self, workers: object = None, initializer: object = None, **options: object) -> None:
        self.given = workers, initializer, options


def test_a_pool_without_workers_is_what_the_plan_says() -> None:
    """Options that a pool is given count more than those of the plan; one that says who computes follows none."""
    assert Made().given == (None, None, {})
    with distmap.plan("wss://gpu1:1", progress=False, token="t"):
        assert Made().given == ("wss://gpu1:1", None, {"progress": False, "token": "t"})
        assert Made(None, len, progress=True).given == ("wss://gpu1:1", len, {"progress": True, "token": "t"})
        assert Made(workers=None, token=None).given[2] == {"progress": False, "token": "t"}
        assert Made(4).given == (4, None, {})
        for name in ("processes", "listen", "relay", "launch"):
            assert Made(**{name: "x"}).given == (None, None, {name: "x"})
    assert Made().given == (None, None, {})


def test_plans_nest_and_end_however_their_block_ends() -> None:
    """The innermost plan counts alone; after its block the one around it does, also after an error."""
    outer = distmap.plan(2, progress=False)
    with outer, outer:
        with contextlib.suppress(KeyError), distmap.plan(launch="x {url}"):
            assert Made().given == (None, None, {"launch": "x {url}"})
            raise KeyError
        assert Made().given == (2, None, {"progress": False})
        with distmap.plan():
            assert Made().given == (None, None, {})
    assert Made().given == (None, None, {})


def test_a_plan_is_that_of_its_context() -> None:
    """Tasks of a loop and their threads have it; another thread has it if it runs in that context."""
    found: list[object] = []

    async def inside() -> None:
        found.append(await asyncio.to_thread(lambda: Made().given[0]))

    with distmap.plan(3):
        asyncio.run(inside())
        context = contextvars.copy_context()
        for run in (lambda: Made(), lambda: context.run(Made)):
            thread = threading.Thread(target=lambda run=run: found.append(run().given[0]))  # type: ignore[misc]
            thread.start()
            thread.join()
    assert found == [3, None, 3]


def test_one_plan_holds_in_several_contexts_at_once() -> None:
    """Threads and tasks enter and leave the same plan in any order; a block that ends elsewhere changes nothing."""
    plan, one, two = distmap.plan(4), contextvars.copy_context(), contextvars.copy_context()
    one.run(plan.__enter__)
    two.run(plan.__enter__)
    one.run(plan.__exit__, None, None, None)
    assert (one.run(Made).given[0], two.run(Made).given[0]) == (None, 4)
    with distmap.plan(5):
        plan.__exit__(None, None, None)
        assert Made().given[0] == 5
    two.run(plan.__exit__, None, None, None)
    assert two.run(Made).given[0] is None


def test_a_plan_shows_itself_without_secrets() -> None:
    """Its repr is the pool that it stands for; tokens and headers are not in it."""
    text = repr(distmap.plan("slurm://?workers=2", token="dm1_secret", progress=False))
    assert text == "<plan: Pool('slurm://?workers=2', token=..., progress=False)>"


def test_a_real_pool_follows_it() -> None:
    """A pool that a library makes has the slots of the plan."""
    with distmap.plan(1), distmap.Pool() as pool:
        assert [worker.slots for worker in pool.workers] == [1]
        assert pool.map(abs, [-1]) == [1]
