"""A plan: what `Pool()` is to be, said by whoever calls code that makes its pool itself.

Owns the plan of a context (`contextvars`): of this thread, or of a task of an event loop. It must not know what a pool
does with it.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, cast

#: Those whose blocks the context is in, the innermost last.
_PLANS: contextvars.ContextVar[tuple[Plan, ...]] = contextvars.ContextVar("distmap_plans", default=())

#: Options of a pool that say who computes: with one of them it follows no plan.
_WHO = ("workers", "processes", "listen", "relay", "launch")

F = TypeVar("F", bound=Callable[..., Any])


class Plan:
    """A plan that holds from `with` on to the end of its block; made by `plan`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def __enter__(self) -> Plan:
        _PLANS.set((*_PLANS.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        plans = _PLANS.get()
        if self in plans:  # else the block ends in another context than it began in
            last = len(plans) - 1 - plans[::-1].index(self)
            _PLANS.set(plans[:last] + plans[last + 1 :])

    def __repr__(self) -> str:
        return f"<plan: Pool({', '.join(map(_shown, self.options.items()))})>"


def plan(workers: Any = None, **options: Any) -> Plan:
    """Say who computes for code that calls `Pool()` itself, such as a library: a context manager.

    Inside the block `Pool()` without workers is `Pool(workers, **options)`. Options that the code gives itself count
    more. A `Pool(4)`, or any other that says who computes, is what it says.

    A plan is that of its context, as `contextvars` has it: it holds in the calling thread, in tasks that the block
    starts on an event loop, and in `asyncio.to_thread`. Another thread has it if it is run by
    `contextvars.copy_context().run`. Inside another plan it counts alone, until its block ends.

    Args:
        workers: as for `Pool`.
        options: as for `Pool`; `None` counts as not given.

    Examples:
        >>> import distmap
        >>> with distmap.plan(2):
        ...     with distmap.Pool() as pool:
        ...         print(pool.workers[0].slots)
        2
    """
    return Plan({"workers": workers, **options})


def follows_plan(init: F) -> F:
    """Let a pool that is not told who computes be what the plan says."""

    @functools.wraps(init)
    def planned(self: Any, *args: Any, **options: Any) -> None:
        plans = _PLANS.get()
        told = args[:1] not in ((), (None,)) or any(options.get(name) is not None for name in _WHO)
        if plans and not told:
            given = {name: value for name, value in options.items() if value is not None}
            options = {**plans[-1].options, **given}
            if args:
                args = (options.pop("workers"), *args[1:])
        init(self, *args, **options)

    return cast(F, planned)


def _shown(pair: tuple[str, Any]) -> str:
    name, value = pair
    if name == "workers":
        return repr(value)
    # A token, headers, a proxy with its password.
    return f"{name}=..." if name in ("token", "headers", "proxy", "env") else f"{name}={value!r}"
