"""Keys of items: the same content, the same key, in every process."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from distmap.checkpoint.keys import Keyer
from distmap.checkpoint.schema import BY_PLACE, KEY
from distmap.core.limits import LIMITS

#: Says the keys of values whose pickles differ from process to process.
PROGRAM = """
import numpy as np
from distmap.checkpoint.keys import Keyer
text = "".join(["a", "b"])
values = [
    {"a", "b", "c", ("d", 1)}, {"x": [frozenset("hello")], text: [text, text]}, [text, text, "ab"],
    np.arange(12.0).reshape(3, 4), {"cells": np.array(["a", "bcd"])}, 1.5, "text", None, (1, "two"),
]
print([Keyer().item(value).hex() for value in values])
print(Keyer().block(list(range(500))).hex(), Keyer().block([text, "ab"] * 300).hex())
"""


def test_other_processes_find_the_same_keys() -> None:
    """Order of sets, identity of text and the seed of hashes do not matter."""
    found = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_other_content_has_another_key() -> None:
    """Values that are equal to Python, but of another type, are other items; so are arrays of another shape."""
    square = np.arange(4.0).reshape(2, 2)
    values = [1, 1.0, True, "1", b"1", None, (1,), [1], {1}, frozenset({1}), {1: 1}, square, square.ravel()]
    values += [square.astype("f4"), square + 1, -0.0, 0.0, [[1], [1]], [1, [1]]]
    keys = [Keyer().item(value) for value in values]
    assert len(set(keys)) == len(values)
    assert all(len(key) == KEY and key != BY_PLACE for key in keys)


def test_the_layout_of_memory_is_no_content() -> None:
    """An array has the same key whatever its order in memory, and a part that comes twice is no other content."""
    item = Keyer().item
    values = np.arange(6.0).reshape(2, 3)
    assert item(values) == item(np.asfortranarray(values)) == item(np.arange(12.0)[::1].reshape(4, 3)[:2])
    part = [1, 2]
    assert item([part, part]) == item([[1, 2], [1, 2]])


def test_an_item_that_leads_back_to_itself_has_a_key() -> None:
    """A cycle ends."""
    item: list[object] = [1]
    item.append(item)
    assert Keyer().item(item) != BY_PLACE


class Unstable:
    """Its pickle is another one each time."""

    numbers: Iterator[int] = itertools.count()

    def __getstate__(self) -> object:
        return next(self.numbers)


@pytest.mark.parametrize(("value", "why"), [(threading.Lock(), "cannot be pickled"), (Unstable(), "pickles .* differ")])
def test_items_without_content_of_their_own_are_told_of_once(value: object, why: str) -> None:
    """An item that does not pickle, or not twice alike, is known by its place; that is said once."""
    told: list[str] = []
    keyer = Keyer(told.append)
    assert keyer.item(value) == keyer.item([value]) == BY_PLACE
    (sentence,) = told
    assert "known to the checkpoint by their index only" in sentence
    assert re.search(why, sentence)


def test_functions_and_classes_count_by_what_they_do() -> None:
    """A lambda as an item has the key of its behaviour."""
    item = Keyer().item
    assert item([lambda x: x + 1]) == item([lambda x: x + 1])
    assert item([lambda x: x + 1]) != item([lambda x: x + 2])


def test_a_class_of_the_user_counts_by_what_it_does() -> None:
    """An object whose class has changed is another item, though its attributes are the same."""

    def made(factor: int) -> object:
        class Item:
            def value(self) -> int:
                return factor

        return Item()

    item = Keyer().item
    assert item(made(1)) == item(made(1)) != BY_PLACE
    assert item(made(1)) != item(made(2))


def test_many_plain_items_have_one_key() -> None:
    """A long run of plain values has one key, that of its values and types; others have one for each item."""
    many = LIMITS.checkpoint_block_items
    block = Keyer().block
    assert block(range(many)) == block(list(range(many))) == block(tuple(range(many)))
    assert block([1.0] * many) != block([1] * many) != block([True] * many)
    assert block(range(many - 1)) is None
    assert block([[1]] * many) is None
    assert block(np.arange(many)) is not None
    assert len(Keyer().chunk(list(range(many)))) == KEY
    assert len(Keyer().chunk([[1]] * many)) == KEY * many
