"""The widgets of a card; without a kernel, as ipywidgets then sends to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ipywidgets
import pytest

from distmap.core.progress import Lane, Snapshot
from distmap.views import widgets
from distmap.views.base import Issue
from distmap.views.widgets import CardWidgets, Panel

S = Snapshot("map", "running", 100, 0, 0, 4, 0, 0, 0, 0, 0, 1.0, 0.0, None, (Lane("local", 2, "busy", 0, 0, 4, 0.5),))


class RecordingControls:
    """Controls that write down what is done to them."""

    def __init__(self) -> None:
        self.paused = False
        self.done: list[str] = []

    def pause(self) -> None:
        self.paused = True
        self.done.append("pause")

    def resume(self) -> None:
        self.paused = False
        self.done.append("resume")

    def cancel(self) -> None:
        self.done.append("cancel")


class RunningCall:
    """What a panel shows."""

    def __init__(self, controls: RecordingControls | None = None) -> None:
        self.title, self.kind, self.number, self.closed = "score", "map", 1, False
        self.snapshot: Snapshot | None = None
        self.issues: list[Issue] = []
        self.controls: Any = controls


@pytest.fixture(autouse=True)
def _all_closed() -> Iterator[None]:
    """No widget stays, layouts and styles included, once the card is closed."""
    yield
    assert ipywidgets.Widget.get_manager_state()["state"] == {}


@pytest.fixture
def card() -> Iterator[CardWidgets]:
    made = CardWidgets()
    yield made
    made.close()
    made.close()


def show(card: CardWidgets, call: RunningCall, **changes: Any) -> Panel:
    """Show the call, the only one of its card, at another moment."""
    call.snapshot = S._replace(**changes)
    card.show([call], call, ())
    return card.panels[call]


def test_the_buttons_steer(card: CardWidgets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause toggles, Cancel is pressed once, and after the end neither does anything."""
    monkeypatch.setattr(widgets, "has_subshells", lambda: True)
    controls = RecordingControls()
    call = RunningCall(controls)
    panel = show(card, call)
    pause, cancel = panel.box.children[0].children[1:]

    def buttons() -> list[tuple[str, bool]]:
        return [(button.description, button.disabled) for button in (pause, cancel)]

    assert buttons() == [("Pause", False), ("Cancel", False)]
    pause.click()
    show(card, call, state="paused")
    assert buttons() == [("Resume", False), ("Cancel", False)]
    for button in (pause, cancel, cancel, pause):
        button.click()
    show(card, call)
    assert buttons() == [("Pause", True), ("Cancel", True)]
    assert controls.done == ["pause", "resume", "cancel", "cancel"]
    call.closed = True
    for button in (cancel, pause):
        button.click()
    assert controls.done[4:] == []


def test_without_subshells_a_hint_stands_for_the_buttons(card: CardWidgets) -> None:
    """It says how to interrupt; a call that nobody may steer has neither."""
    panel = show(card, RunningCall(RecordingControls()))
    assert "to cancel" in panel.box.children[0].children[1].value
    assert len(show(card, RunningCall()).box.children[0].children) == 1


def test_what_is_the_same_is_not_sent(card: CardWidgets) -> None:
    """Parts are sent when they change, lanes at every third update, the issues when there is something to tell."""
    call, sent = RunningCall(), list[str]()
    panel = show(card, call)
    for part, widget in panel._parts.items():
        widget.observe(lambda change, part=part: sent.append(part), "value")
    for done in range(1, 10):
        lanes = (S.lanes[0]._replace(items=done, chunks=done),)
        show(card, call, done=done, lanes=lanes)
        show(card, call, done=done, lanes=lanes)
    details = panel.box.children[-1]
    assert details.layout.display == "none"
    call.issues.append(Issue("retried", 1, "w", 1, "once"))
    for _ in range(3):
        show(card, call, done=9, retried=1, lanes=lanes)
    assert {part: sent.count(part) for part in panel._parts} == {"head": 0, "bar": 9, "lanes": 7, "issues": 1}
    assert details.titles == ("1 retry",)
    assert details.layout.display is None


def test_the_call_that_ended_last_stays_until_another_is_shown(card: CardWidgets) -> None:
    """An output whose height jumps is hard to read; panels that are gone are closed."""
    first, second = RunningCall(), RunningCall()
    panel = show(card, first)
    card.show([], None, ())
    assert card.box.children[-1] is panel.box
    other = show(card, second)
    assert list(card.panels) == [second]
    assert card.box.children[-1] is other.box
    assert panel.box.comm is None
