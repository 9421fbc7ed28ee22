"""What is done if the function of a checkpoint has changed."""

from __future__ import annotations

import pytest
from support.checkpoints import SCORE, write

from distmap.checkpoint.store import Store
from distmap.errors import CheckpointChanged
from distmap.tasks.fingerprint import changes


def test_a_changed_function_is_named(store: Store) -> None:
    """By default the error says what changed and how many results there are; without results it says nothing."""
    section = store.section(SCORE, "error", changes)
    changed = SCORE._replace(digest=b"2", parts={**SCORE.parts, "the global helper": "2"}, options={"seed": 1})
    empty = store.section(changed, "error", changes)
    assert empty.items == 0, "there is nothing to lose"
    write(store, section.function, 0, [1, 2])
    third = SCORE._replace(digest=b"3", parts={**SCORE.parts, "the global helper": "3"}, options={"seed": 1})
    with pytest.raises(
        CheckpointChanged, match=r"the global helper changed and seed= was None and is 1 since 2 results of score in"
    ):
        store.section(third, "error", changes)


def test_restart_and_keep(store: Store) -> None:
    """ "restart" begins anew and leaves the old results to the old function; "keep" takes them for the new one."""
    old = store.section(SCORE, "error", changes)
    write(store, old.function, 0, [1, 2])
    changed = SCORE._replace(digest=b"2", parts={**SCORE.parts, "the code of score": "2"})
    fresh = store.section(changed, "restart", changes)
    assert fresh.items == 0
    assert "the code of score changed" in fresh.notice
    assert store.section(SCORE, "error", changes).items == 2
    assert store.section(changed, "error", changes).function == fresh.function
    third = SCORE._replace(digest=b"3")
    kept = store.section(third, "keep", changes)
    assert (kept.items, kept.function) == (2, old.function)
    assert store.section(third, "error", changes).items == 2


def test_the_batch_size_of_the_last_call_is_known(store: Store) -> None:
    """Options of the last call of a function can be asked for."""
    store.section(SCORE._replace(options={"batch_size": 10}), "error", changes)
    assert store.options_of("score", "one") == {"batch_size": 10}
    assert store.options_of("other", "one") == {}


def test_another_version_of_a_package_is_mentioned_once(store: Store) -> None:
    """It is no change: the results are kept, and the sentence names both versions."""
    first = store.section(SCORE._replace(versions={"numpy": "2.3", "gone": "1"}), "error", changes)
    write(store, first.function, 0, [1, 2])
    later = SCORE._replace(versions={"numpy": "2.4", "new": "1"})
    section = store.section(later, "error", changes)
    assert (section.function, section.items) == (first.function, 2)
    assert section.notice.startswith("numpy is 2.4 and was 2.3 when 2 results of score in ")
    assert not store.section(later, "error", changes).notice
