"""The card of a pool that listens, in JupyterLab: the line to paste comes first, and is readable in both themes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from support.jupyterlab_page import Lab, contrast

Open = Callable[..., Lab]

PLAIN = """
    from distmap import Pool

    pool = Pool(listen=True)
    pool
"""
ON_A_HUB = """
    import os

    os.environ["JUPYTERHUB_SERVICE_PREFIX"] = "/user/ann/"
    os.environ["JUPYTERHUB_PUBLIC_URL"] = "https://hub.example/user/ann/"
    with Pool(listen=True) as hub_pool:
        display(hub_pool)
"""


def test_the_line_to_paste_leads(lab: Open, pictures: Path) -> None:
    """The kernel finds its server; line and notes can be read, light and dark; no token gets into the file."""
    book = lab(PLAIN, ON_A_HUB)
    book.run_through(0, 1)
    book.see(
        0,
        re.compile(
            r"Add a worker from another machine.*distmap-worker ws://(localhost|127\.0\.0\.1):\d+/\S*proxy/\d+", re.S
        ),
    )
    book.see(0, re.compile(r"jupyter server list.*0 connected", re.S))
    book.see(1, re.compile(r"distmap-worker wss://hub\.example/user/ann/proxy/\d+", re.S))
    book.see(1, re.compile(r"https://hub\.example/hub/token with the scope access:servers!server=ann/", re.S))
    try:
        for theme in ("Light", "Dark"):
            book.theme(f"JupyterLab {theme}")
            for part in (".dm-command", ".dm-notes li", ".dm-notes code"):
                ink, ground = book.colours(book.output(1).locator(part).first)
                assert contrast(ink, ground) >= 4.5, (theme, part, ink, ground)
            book.picture(pictures / f"pool-line-{theme.lower()}.png")
    finally:
        # The server keeps it as the user's choice, for the next test too.
        book.theme("JupyterLab Light")
    book.save()
    assert "dm1_" not in book.file.read_text(encoding="utf-8")
