"""What `Pool(...)` and its calls are given, sorted out and checked.

Owns the forms that arguments may take, those of `multiprocessing.Pool` among them. Knows no engine and no job.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from distmap.calls.checks import checked, displayed, is_whole
from distmap.calls.launching import is_launch
from distmap.engine.adapters import is_foreign
from distmap.tasks._typing import NamedTuple
from distmap.tasks.caller import warn
from distmap.tasks.nesting import cores

if TYPE_CHECKING:
    from distmap.slots.devices import Devices

#: A number, an address, an engine that somebody else runs (an Executor, a client of Dask ...), a sequence of these, or
#: None. (What engines there are is not known to the type checker: nothing of theirs is imported.)
Workers = object


class Wanted(NamedTuple):
    """The engines that a pool is to have."""

    local: int = 0
    urls: tuple[str, ...] = ()
    #: Engines that somebody else runs, or their addresses.
    foreign: tuple[object, ...] = ()
    inline: bool = False
    #: How many items an executor is to run at once; None: it says so itself.
    at_once: int | None = None
    #: Whether each GPU of this machine is to have a slot, and these GPUs once they were looked for (`found`).
    gpu: bool = False
    devices: Devices | None = None

    @property
    def here(self) -> bool:
        """Whether there are slots of this machine."""
        return bool(self.local or self.gpu)

    def found(self) -> Wanted:
        """The same with the GPUs of this machine, if they are wanted. Waits for their driver.

        Raises:
            ValueError: There is none.
        """
        if not self.gpu:
            return self
        from distmap.slots.devices import find_devices

        return self._replace(devices=find_devices())

    def memory_of_each(self, limit: int | str | None) -> int | None:
        """The memory limit of each slot of this machine in bytes, once `found`; None: there is none.

        Raises:
            TypeError, ValueError: It is no size, or too small.
        """
        if limit is None:
            return None
        from distmap.slots.memory import limit_of

        return limit_of(limit, self.local + (0 if self.devices is None else len(self.devices)))


def label_of(fn: Callable[..., Any]) -> str:
    fn = getattr(fn, "func", fn)  # functools.partial
    return getattr(fn, "__name__", None) or type(fn).__name__


def sort_out(workers: Workers, listen: str | None, processes: int | None = None) -> Wanted:
    """What `Pool(...)` was given: local slots, URLs, foreign engines, whether to run inline.

    `processes` is a number of local slots, or beside one executor how many items that is to run at once.
    """
    if processes is not None:
        if workers is None:
            return sort_out(processes, listen)
        wanted = sort_out(workers, listen)
        if len(wanted.foreign) != 1 or wanted.local:
            raise TypeError(
                "Pool(executor, processes=n) says how many items the one executor is to run at once; for slots of this "
                "machine give the number alone: Pool(n)"
            )
        return wanted._replace(at_once=processes)
    checked("listen", listen)
    if workers is None:
        return Wanted(0 if listen is not None else cores())
    many = workers if isinstance(workers, list | tuple) else [workers]
    if not many and listen is None:
        raise ValueError("a pool needs someone to work: a number of slots, a wss:// URL, or listen=")
    local, urls, inline, gpu = 0, [], False, False
    foreign: list[object] = []
    for one in many:
        if is_foreign(one):
            foreign.append(one)
        elif isinstance(one, str):
            if one == "inline":
                inline = True
            elif one == "gpu":
                gpu = True
            elif not is_launch(one):
                urls.append(one)
        elif is_whole(one) and not isinstance(one, bool):
            local += checked("slots", one)
        else:
            raise TypeError(
                'Pool(...) takes a number of slots, "gpu", a wss:// URL, an Executor, another engine that already '
                "runs (such as a Client of Dask), or a list of these; "
                f"got {displayed(one)}"
            )
    return Wanted(local, tuple(urls), tuple(foreign), inline, gpu=gpu)


def mp_options(
    wanted: Wanted, maxtasksperchild: int | None, context: Any, memory_limit: int | str | None = None
) -> None:
    """Check the options that not every kind of worker can have, most of them those of `multiprocessing.Pool`.

    Raises:
        TypeError, ValueError: one cannot be honoured; says why.
    """
    if maxtasksperchild is not None and (wanted.urls or wanted.foreign or wanted.inline or not wanted.here):
        raise ValueError("maxtasksperchild= is for slots of this machine; the processes of other workers are not ours")
    if memory_limit is not None and not wanted.here:
        raise ValueError(
            "memory_limit= is for slots of this machine, and this pool has none; give --memory-limit to distmap-worker"
        )
    if context is None:
        return
    method = getattr(context, "get_start_method", lambda: None)()
    if method is None:
        raise TypeError(f'context must be multiprocessing.get_context("spawn"), or None; got {context!r}')
    if method != "spawn":
        raise ValueError(
            f'context="{method}" is not there: a slot is always a fresh process, as with "spawn" (a fork would inherit '
            "the locks of the kernel's threads); leave context= out"
        )


def variables(env: Mapping[str, str] | None, wanted: Wanted) -> dict[str, str]:
    """What `Pool(env=)` was given, checked.

    Raises:
        TypeError, ValueError: it is not a mapping of text to text, or it cannot be honoured; says why.
    """
    taken: dict[str, str] = checked("env", env)
    if "DISTMAP_TOKEN" in taken:
        raise ValueError(
            "env= must not hold DISTMAP_TOKEN: tasks would be able to read it; give it to this pool with token=, "
            "and to each worker as its DISTMAP_TOKEN_FILE or DISTMAP_TOKEN"
        )
    if env is not None and (wanted.foreign or wanted.inline):
        raise ValueError("env= is for slots and workers of distmap; the processes of an executor are its owner's")
    return taken


def positional_chunksize(iterables: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    """`map(fn, iterable, 10)`: the third argument is chunksize in `multiprocessing.Pool`."""
    if len(iterables) > 1 and (iterables[-1] is None or is_whole(iterables[-1])):
        if iterables[-1] is not None:
            options["chunksize"] = iterables[-1]
        iterables = iterables[:-1]
    if not iterables:
        raise TypeError("map needs a function and at least one iterable")
    return iterables


def tell_of_columns(iterables: Iterable[Any]) -> None:
    """Warn, at the caller's line, that a frame gives its columns: who maps over one most often means its rows."""
    for data in iterables:
        kind = type(data)
        # So say frames of pandas, polars, pyarrow and their like; asked of the class, which runs nothing of theirs.
        if hasattr(kind, "columns") and hasattr(kind, "shape") and hasattr(kind, "__getitem__"):
            warn(
                f"a {kind.__name__} gives its {len(data.columns)} columns, as iterating over it does; for its rows use "
                "pool.map_batches(fn, frame), which gives fn slices of rows; to mean the columns, pass list(frame)"
            )


F = TypeVar("F", bound=Callable[..., Any])


def mp_keywords(*names: str) -> Callable[[F], F]:
    """Let a method of the pool take its first arguments by the names that `multiprocessing.Pool` gives them, too."""

    def decorate(method: F) -> F:
        @functools.wraps(method)
        def call(self: Any, *args: Any, **options: Any) -> Any:
            for place, name in enumerate(names):
                if name in options:
                    if len(args) > place:
                        raise TypeError(f"{method.__name__}() got its argument {name!r} twice: by place and by name")
                    first = (options.pop("fn"),) if place and not args and "fn" in options else args
                    if len(first) < place:
                        raise TypeError(f"{method.__name__}() needs a function before its {name!r}")
                    args = (*first, options.pop(name))
            return method(self, *args, **options)

        return cast(F, call)

    return decorate


def mp_arguments(
    call: str, args: Iterable[Any], kwds: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`args` and `kwds` of `apply` and `apply_async`.

    Raises:
        TypeError: they are no list of arguments, or no mapping; says what is expected.
    """
    try:
        listed = tuple(args)
    except TypeError:
        raise TypeError(
            f"{call}(fn, args): args must be a list or tuple of the function's arguments, such as ({args!r},); "
            f"got {type(args).__name__}"
        ) from None
    if kwds is not None and not isinstance(kwds, Mapping):
        raise TypeError(
            f"{call}(fn, args, kwds): kwds must be a dict of the function's keywords; got {type(kwds).__name__}"
        )
    return listed, dict(kwds or {})


def mp_positional(iterables: tuple[Any, ...], callback: Any, error_callback: Any) -> tuple[tuple[Any, ...], Any, Any]:
    """`map_async(fn, iterable, chunksize, callback, error_callback)` of `multiprocessing.Pool`."""
    tail = iterables[1:]
    plain = all(one is None or is_whole(one) or (callable(one) and not hasattr(one, "__iter__")) for one in tail)
    if len(tail) > 1 and plain:
        callback, error_callback = tail[1] or callback, (tail[2] if len(tail) > 2 else None) or error_callback
        iterables = iterables[:1] if tail[0] is None else iterables[:2]
    return iterables, callback, error_callback
