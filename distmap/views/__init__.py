"""What shows how far a job is: in a notebook, in a terminal, or by a function of the user.

A view is given snapshots and returns nothing; it knows no pool, scheduler or worker. Imports lower rings only: mostly
`core/progress.py`.
Begin with `base.py` (the ports), `choose.py` (which view a call gets) and `display.py` (the views of one job).

- strings: `words.py` (text) -> `html.py` (elements) -> `lanes.py`, `cards.py`, `summary.py`; `style.py` has the colours
- a terminal: `terminal.py`
- a notebook: `notebook.py` (which cell) -> `cell_card.py` (what it shows) -> `widgets.py`; `stats.py` counts its calls
- when: `refresh.py`, the one thread that updates all views
"""
