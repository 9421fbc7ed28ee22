"""A conformance suite for engines: does `pool.map` over yours keep what it keeps on slots of distmap?

Owns the list of cases, running them, and the record of a run. `python -m distmap.testing.engines NAME` runs them on an
engine that is known here (`engine_starts.py`), on this machine. For one of your own:

    from distmap import Pool
    from distmap.testing.engines import run

    run(lambda: Pool(my_executor))

or, one test for each case, by pytest:

    from distmap.testing.engines import CASES, EngineUnderTest, Session, Started

    @contextlib.contextmanager
    def start():
        with MyExecutor(2) as executor:
            yield Started(executor)

    @pytest.fixture(scope="module")
    def session():
        with Session(EngineUnderTest("mine", start)) as session:
            yield session

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_my_engine(session, case):
        assert session.run(case).state != "failed"

The workers of the engine must see the files of this machine, and import distmap.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distmap.pool import Pool
from distmap.testing.engine_faults import FAULTS
from distmap.testing.engine_results import RESULTS
from distmap.testing.engine_starts import ENGINES, FOR_MPIEXEC
from distmap.testing.engine_suite import Case, EngineUnderTest, Outcome, Session, Started

__all__ = ["CASES", "ENGINES", "Case", "EngineUnderTest", "Outcome", "Session", "Started", "main", "record", "run"]

#: Every case, in the order in which they run: those that end the engine are last.
CASES = (*RESULTS, *FAULTS)


def run(
    engine: EngineUnderTest | Callable[[], Pool],
    cases: Iterable[Case] = CASES,
    *,
    told: Callable[[Outcome], object] = print,
) -> list[Outcome]:
    """Put the cases to an engine, one after the other.

    Args:
        engine: the engine; or a function that makes a pool on it, and then cases that need more are left out.
        cases: which ones.
        told: called with each outcome as it comes.

    Returns:
        The outcomes; `state` is "failed" for a promise that is not kept and was not known not to be.
    """
    outcomes = []
    with Session(engine if isinstance(engine, EngineUnderTest) else _made_by(engine)) as session:
        for case in cases:
            outcomes.append(session.run(case))
            told(outcomes[-1])
    return outcomes


def _made_by(make: Callable[[], Pool]) -> EngineUnderTest:
    @contextlib.contextmanager
    def start() -> Iterator[Started]:
        yield Started(None, make=make)

    return EngineUnderTest("yours", start)


def record(engine: EngineUnderTest, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """What a run has shown, for a file: with versions and the day."""
    return {
        "engine": engine.name,
        "title": engine.title or engine.name,
        "version": version(engine.package) if engine.package else f"Python {platform.python_version()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "cases": {one.case.name: {"state": one.state, "reason": one.reason} for one in outcomes},
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 if every promise was kept, or was known not to be."""
    parser = argparse.ArgumentParser("python -m distmap.testing.engines", description="Put the cases to an engine.")
    parser.add_argument("engine", choices=sorted(ENGINES), metavar="NAME", help=", ".join(sorted(ENGINES)))
    parser.add_argument(
        "--case", action="append", choices=[case.name for case in CASES], metavar="CASE", help="only it"
    )
    parser.add_argument("--json", metavar="FILE", help="write the record of the run")
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)  # it runs as a part of the engine
    given = parser.parse_args(arguments)
    engine = ENGINES[given.engine]
    if engine.under is not None and not given.within:
        again = [*(sys.argv[1:] if arguments is None else arguments), "--within"]
        command = engine.under(["-m", "distmap.testing.engines", *again])
        return subprocess.run(command, env={**os.environ, **FOR_MPIEXEC}).returncode
    chosen = [case for case in CASES if not given.case or case.name in given.case]
    outcomes = run(engine, chosen, told=lambda outcome: print(outcome, flush=True))
    if given.json:
        text = json.dumps(record(engine, outcomes), indent=1, ensure_ascii=False)
        Path(given.json).write_text(text + "\n", encoding="utf-8")
    states = [outcome.state for outcome in outcomes]
    print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    return int("failed" in states)


if __name__ == "__main__":
    sys.exit(main())
