"""What workers lack for the code of a job, in words: the warning about workers that are left out, and the error.

Owns these texts. Must not know who decides about workers (`core/fitness.py`). Unpickles what workers raised, so it
is for the thread of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence

from distmap.driver.messages import Finished, Refusal
from distmap.tasks.extras import Lack
from distmap.tasks.failures import SET_UP, Failure, headline, revive
from distmap.tasks.items import load_results


def failure_in(refusal: Refusal) -> Failure:
    """What the worker raised."""
    failure: Failure = load_results(refusal.parts, 0, 1)[0]
    return failure


def _lacks_in(refusal: Refusal) -> tuple[Lack, ...]:
    said = load_results(refusal.parts, 0, 1)
    return said[1] if len(said) > 1 else ()


def shortfall(refusal: Refusal) -> str:
    """Why the worker does not run the job, and what to do there: "lacks polars 1.9 (here: 1.9.0); ..."."""
    lacks = _lacks_in(refusal)
    parts = [] if refusal.unfit else [headline(failure_in(refusal))]
    if lacks:
        parts = [] if all(lack.there is None for lack in lacks) else parts
        parts += [
            f"lacks {lack.name} {_series(lack.wanted)} (here: {lack.wanted})"
            if lack.there is None
            else f"has {lack.name} {lack.there} (here: {lack.wanted})"
            for lack in lacks
        ]
    return f"{', '.join(parts)}{_remedy(lacks)}"


def _series(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _remedy(lacks: Sequence[Lack]) -> str:
    if not lacks:
        return ""
    wanted = [f"{lack.name}=={lack.wanted.partition('+')[0]}" for lack in lacks]
    call = ", ".join(map(repr, wanted))
    return f"; `python -m pip install {' '.join(wanted)}` there, or `pool.install({call})`"


def left_out(name: str, finished: Finished) -> list[str]:
    """The warning about workers that did not run a job though others did; none if there are none."""
    if not finished.refusals:
        return []
    out = [refusal for refusal in finished.refusals if not refusal.let_in]
    if not out or finished.refused:
        return []
    said = "; and ".join(f"{refusal.worker} {_verb(refusal)}{shortfall(refusal)}" for refusal in out)
    return [f"{name} ran on the other workers only: {said}"]


def _verb(refusal: Refusal) -> str:
    return "" if _lacks_in(refusal) else "raised as it loaded the function: "


def refusal_of(failure: Failure, worker: str) -> BaseException:
    """The error of a job whose function could not be loaded on a worker, or could not be sent to it."""
    error = revive(failure, index=0, worker=worker, attempt=1)
    notes = getattr(error, "__notes__", [])[:-1]  # the last one names an item
    what = "the function could not be loaded on" if failure.sent else "the executor raised this:"
    if any(note.startswith(SET_UP) for note in notes):
        what = "on"
    error.__notes__ = [*notes, f"{what} worker {worker}; no item was run there"]
    return error


def refused_by_all(refusals: Sequence[Refusal]) -> BaseException:
    """The error of a job that no worker could run: that of the last one, with a note on what each of them lacks."""
    refusal = next((one for one in reversed(refusals) if not one.unfit), refusals[-1])
    error = refusal_of(failure_in(refusal), refusal.worker)
    if len(refusals) > 1 or any(map(_lacks_in, refusals)):
        error.add_note("; and ".join(f"{one.worker} {_verb(one)}{shortfall(one)}" for one in refusals))
    return error
