"""The conformance suite finds engines that break promises, says so of each, and goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from distmap.pool import Pool
from distmap.testing import engine_suite
from distmap.testing.engine_suite import Case, EngineUnderTest, NotAsked, Session, Started, needed


@contextlib.contextmanager
def inline() -> Iterator[Started]:
    yield Started("inline")


def keeps(pool: Pool, engine: Started) -> None:
    """A map gives results."""
    assert pool.map(abs, [-1]) == [1]


def breaks(pool: Pool, engine: Started) -> None:
    """Three is four."""
    assert pool.map(abs, [-3]) == [4]


def closes(pool: Pool, engine: Started) -> None:
    """The pool is closed by the case itself."""
    pool.terminate()
    pool.join()


def asks_too_much(pool: Pool, engine: Started) -> None:
    """The engine has processes."""
    needed(engine.pids, "it has none")


def session(**known: object) -> Session:
    return Session(EngineUnderTest("mine", inline, **known))  # type: ignore[arg-type]


def test_outcomes_say_what_became_of_a_case() -> None:
    """Kept, failed with its traceback, or left out with the reason; a case that closed the pool harms no other."""
    with session() as tried:
        found = [tried.run(Case("", check)) for check in (keeps, breaks, closes, asks_too_much, keeps)]
    assert [one.state for one in found] == ["kept", "failed", "kept", "not asked", "kept"]
    assert "AssertionError" in found[1].reason
    assert found[3].reason == "it has none"
    assert found[0].case.promise == "A map gives results."


def test_a_known_lack_must_be_one() -> None:
    """What is known not to be kept is tried, and is a failure if it is kept; some are not tried."""
    known = {"keeps": "no maps", "breaks": "wrong", "closes": "ends all"}
    with session(lacks=known, untried=frozenset(["closes"])) as tried:
        found = [tried.run(Case("", check)) for check in (breaks, closes, keeps)]
        assert tried._pool is not None
    assert [(one.state, one.reason) for one in found] == [
        ("not kept", "wrong"),
        ("not kept", "ends all"),
        ("failed", "is kept, and was said not to be: no maps"),
    ]


def test_a_case_that_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is interrupted after a while, and the next case runs."""

    def hangs(pool: Pool, engine: Started) -> None:
        """It ends."""
        engine.until(lambda: False, "the end of time")

    monkeypatch.setattr(engine_suite, "CASE_SECONDS", 0.2)
    with session() as tried:
        hung = tried.run(Case("", hangs))
        monkeypatch.undo()
        after = tried.run(Case("", keeps))
    assert (hung.state, after.state) == ("failed", "kept")
    assert "not over after 0.2 s" in hung.reason


def test_a_pool_that_a_case_has_broken_is_found() -> None:
    """A case after which the pool does not map has failed, and the engine is started anew for the next one."""

    def spoils(pool: Pool, engine: Started) -> None:
        """All is well."""
        pool.map = None  # type: ignore[assignment,method-assign]
        pool.map_async = lambda *_: (_ for _ in ()).throw(OSError)  # type: ignore[assignment,method-assign]

    with session() as tried:
        spoilt, after = tried.run(Case("", spoils)), tried.run(Case("", keeps))
    assert (spoilt.state, after.state) == ("failed", "kept")
    assert "afterwards the pool could not be used any more" in spoilt.reason


def test_a_ready_pool_is_asked_less() -> None:
    """Of an engine that only gives a pool, nothing else is asked."""
    with pytest.raises(NotAsked, match="only a ready pool"):
        Started(None, make=lambda: Pool("inline")).pool(1)
