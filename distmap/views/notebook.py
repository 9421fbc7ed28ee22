"""Which cell of a notebook has which card.

Owns the cards of this kernel, and hears from the kernel when a cell begins or ends and when its output is cleared.
What a card shows is in `cell_card.py`. Cells run one after the other, in the kernel's main thread, which calls the
hooks; calls begin in any thread. `_CARDS_LOCK` is not held while a card draws.
"""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from typing import Any

from distmap.views.base import Controls, View
from distmap.views.cell_card import CallView, CellCard
from distmap.views.kernel import shell

#: Cells whose cards are kept: threads that a cell left behind may make calls later.
_MAX_CELLS = 32

_CARDS: OrderedDict[str, CellCard] = OrderedDict()
_CARDS_LOCK = threading.Lock()
#: The shell that calls the hooks below; they are registered once.
_hooked: list[Any] = []
#: Set while no cell runs.
_between_cells = threading.Event()


def notebook_view(
    title: str,
    kind: str = "",
    controls: Controls | None = None,
    function: tuple[str, str] | None = None,
    cell: str | None = None,
) -> View:
    """A call on the card of its cell.

    Args:
        title, kind, controls: as for `choose_view`.
        function: title and kind of the calls that it is counted with; default: those of the call.
        cell: id of the cell's run; None: a card of its own.
    """
    view = CallView(_card_of(cell), title, kind, controls, function or (title, kind))
    if cell is None:
        view.card.flush()  # the user asked to see it
    return view


def _card_of(cell: str | None) -> CellCard:
    """The card of a cell, made by its first call; a new one if no cell is named."""
    with _CARDS_LOCK:
        card = None if cell is None else _CARDS.get(cell)
        if card is None:
            widgets = importlib.util.find_spec("ipywidgets") is not None
            over = cell is None or not _hook(shell())
            card = CellCard(widgets=widgets, over=over, between_cells=_between_cells)
            if cell is not None:
                _CARDS[cell] = card
                while len(_CARDS) > _MAX_CELLS:
                    _CARDS.popitem(last=False)
        return card


def _hook(shell: Any) -> bool:
    """Have the hooks called; False if this shell has no such events."""
    if _hooked and _hooked[0] is shell:
        return True
    try:
        shell.events.register("pre_run_cell", _cell_began)
        shell.events.register("post_run_cell", _cell_ended)
        shell.display_pub.register_hook(_published)
    except AttributeError:  # neither IPython nor one that is built like it
        return False
    _hooked[:] = [shell]
    return True


def _cell_began(info: Any = None) -> None:
    _between_cells.clear()


def _cell_ended(result: Any = None) -> None:
    """All cells have ended: what is drawn later may come too late for a program that saves the notebook."""
    with _CARDS_LOCK:
        cards = list(_CARDS.values())
    for card in cards:
        card.flush(over=True)
    _between_cells.set()


def _published(message: dict[str, Any]) -> dict[str, Any]:
    """Called with every message that the main thread displays."""
    if message.get("header", {}).get("msg_type") == "clear_output":
        card = _CARDS.get(message.get("parent_header", {}).get("msg_id", ""))
        if card is not None:
            card.forget()
    return message
