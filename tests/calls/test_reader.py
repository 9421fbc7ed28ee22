"""The mailbox and the dispatch of a job's messages."""

from __future__ import annotations

import queue

import pytest

from distmap.calls.reader import JobReader, Mailbox
from distmap.driver.messages import Placed, Printed


def test_a_mailbox_keeps_a_message_until_it_was_handled():
    """Whoever is interrupted while handling a message finds it again."""
    box = Mailbox()
    with pytest.raises(queue.Empty):
        box.first(0.01)
    box.put("one")
    box.put("two")
    assert [box.first(), box.first()] == ["one", "one"]
    box.drop()
    assert box.first(5) == "two"
    box.drop()
    with pytest.raises(queue.Empty):
        box.first(0.01)


def test_each_message_goes_to_its_own_method():
    """A reader overrides the methods of the messages that concern it; it does nothing with the others."""
    handled = []

    class Reader(JobReader):
        def printed(self):
            handled.append("printed")

    reader = Reader()
    for message in (Placed(0, "local", 1), Printed()):
        reader.handle(message)
    assert handled == ["printed"]
