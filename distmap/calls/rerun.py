"""A failed item, run again in this process: `error.rerun_locally()`.

Owns what the error of an item keeps for that, within a bound, and the run itself, under a debugger if asked. Must not
know workers: nothing is sent anywhere.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace, TracebackType
from typing import Any

from distmap.calls.traces import gate
from distmap.core.limits import LIMITS
from distmap.driver.messages import Input
from distmap.tasks._typing import NamedTuple
from distmap.tasks.code import Style
from distmap.tasks.failures import Failure, users_frames
from distmap.tasks.items import Items
from distmap.tasks.payload import Payload
from distmap.tasks.picked import pick
from distmap.tasks.run import LoadedCode, current

_NOTHING_KEPT = "this item cannot be run again here: "


class _Kept(NamedTuple):
    """A failed item, and its function."""

    fn: Any
    style: Style
    seed: int | None
    #: The function as it was sent; None if it was too large to be kept.
    code: Payload | None
    #: A chunk of one item, and the index of that.
    item: Payload
    at: int


class Rerun:
    """Runs a failed item again, in this process: the attribute `rerun_locally` of the error of an item."""

    __slots__ = ("_deadly", "_kept", "_why_not")

    def __init__(self, kept: _Kept | None, why_not: str = "", *, deadly: bool = False) -> None:
        self._kept = kept
        self._why_not = why_not
        self._deadly = deadly

    @gate
    def __call__(self, *, debug: bool = False, force: bool = False) -> Any:
        """Run the item here, with the same function, arguments and `seed=`; returns what the function returns.

        Args:
            debug: if it raises, open the debugger in the frame that raised (IPython's in a notebook, else pdb).
            force: run it also if it ended its process on the worker, and may end this one.

        Raises:
            Exception: what the function raised, from its own frames: `%debug` afterwards works in them.
            ValueError: what it needs was too large to be kept, or it would end this process.
        """
        __tracebackhide__ = True
        if self._kept is None:
            raise ValueError(_NOTHING_KEPT + self._why_not)
        if self._deadly and not force:
            raise ValueError(
                "this item ended its process where it ran, and would end this one too, with all that it has in memory; "
                "pass force=True to run it here all the same, or run it in a process of its own: Pool(1).apply(...)"
            )
        fn, args, kwargs, seed = _opened(self._kept)
        before, current.run = getattr(current, "run", None), _alone(self._kept.at, seed)
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            if debug:
                _post_mortem(error)
            raise
        finally:
            current.run = before

    def __repr__(self) -> str:
        what = "not possible" if self._kept is None else f"of item {self._kept.at}"
        return f"<rerun_locally {what}>"

    def __reduce__(self) -> Any:
        return _gone, ()  # the error may travel or be kept in a file: this does not


def _gone() -> Rerun:
    """What an error has that was pickled."""
    return Rerun(None, "its error was pickled, which leaves the item behind")


class ItemFailure(NamedTuple):
    """An item that failed: a pair of its index and its error."""

    item: int
    error: BaseException

    def rerun_locally(self, *, debug: bool = False, force: bool = False) -> Any:
        """Run the item again, in this process. The arguments are those of `error.rerun_locally`, which this calls.

        Raises:
            Exception: what the function raised.
        """
        __tracebackhide__ = True
        again: Rerun = vars(self.error).get(_NAME) or _gone()
        return again(debug=debug, force=force)


_NAME = "rerun_locally"


def make_rerunnable(error: BaseException, ran_with: Input | None, index: int, at: int, *, deadly: bool = False) -> None:
    """Give the error of an item its `rerun_locally`.

    Args:
        ran_with: the function and the chunk of the item; None if they are not known any more.
        index: of the item.
        at: its offset in the chunk.
        deadly: it ended its process.
    """
    if not hasattr(type(error), _NAME):
        # Not by setattr: a frozen class would refuse it.
        vars(error)[_NAME] = _rerun(ran_with, index, at, deadly)


def _rerun(ran_with: Input | None, index: int, at: int, deadly: bool) -> Rerun:
    if ran_with is None or (origin := ran_with.code.origin) is None:
        return Rerun(None, "its input was given up before the error came")
    try:
        item = pick(ran_with.payload, at)
    except Exception as error:  # the classes of its chunk do not load here
        return Rerun(None, f"it does not unpickle in this process ({type(error).__name__}: {error})")
    if item.nbytes > ran_with.room.left:
        return Rerun(
            None,
            f"the errors of a job keep {LIMITS.rerun_bytes >> 20} MB of items, and it was too large for what was left; "
            "call the function with the item yourself",
        )
    ran_with.room.left -= item.nbytes
    return Rerun(_Kept(origin.fn, origin.style, origin.seed, _copy(ran_with), item, index), deadly=deadly)


def _copy(ran_with: Input) -> Payload | None:
    """The function as it was sent. It shares no memory with what was captured, so that this may be let go."""
    code, room = ran_with.code.payload, ran_with.room
    if room.copy is None and code.nbytes <= LIMITS.rerun_bytes // 2:
        room.copy = Payload(code.head, tuple(map(bytearray, code.buffers)))
    return room.copy


def _opened(kept: _Kept) -> tuple[Any, tuple[Any, ...], dict[str, Any], int | None]:
    """The function, what to call it with, and the seed of its job."""
    fn = kept.fn()
    if fn is None:
        if kept.code is None:
            raise ValueError(
                _NOTHING_KEPT + f"its function captured more than {LIMITS.rerun_bytes >> 21} MB, of which no copy is "
                "kept, and it exists no more; define it under a name and make the call again"
            )
        fn = LoadedCode(kept.code).fn
    items = Items(kept.item.parts)
    item = items.load(0) if items.whole is None else items.whole[0]
    if type(item) is Failure:
        raise ValueError(_NOTHING_KEPT + "it failed before it was sent; call the function with it yourself")
    if kept.style == "one":
        return fn, (item,), {}, kept.seed
    if kept.style == "star":
        return fn, tuple(item), {}, kept.seed
    return fn, tuple(item[0]), dict(item[1]), kept.seed


def _alone(index: int, seed: int | None) -> Any:
    """What `distmap.rng()` looks at, for an item that runs by itself."""
    return SimpleNamespace(
        task=SimpleNamespace(start=index), cells=[0] * 8, code=SimpleNamespace(seed=seed), generator=None
    )


def _post_mortem(error: BaseException) -> None:
    """Open the debugger where the function raised."""
    frames: list[TracebackType] = users_frames(error)
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is not None:
        debugger: Any = shell.debugger_cls()
    else:
        from pdb import Pdb

        debugger = Pdb()
    tb = None
    for one in reversed(frames):
        tb = TracebackType(tb, one.tb_frame, one.tb_lasti, one.tb_lineno)
    debugger.reset()
    debugger.interaction(None, tb)
