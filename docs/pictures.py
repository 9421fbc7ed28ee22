"""Take the README's pictures anew, in a real JupyterLab: `python docs/pictures.py [FOLDER]` (default: this folder).

Writes panel.png, panel-dark.png (a map that runs on four workers, one of which is killed on the way) and pool.png.
Needs Chromium and `pip install -e ".[test]"`. The workers are processes of this machine that are given names; nothing
else is staged.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from support.jupyterlab_page import DEADLINE, Lab, Server, chromium  # noqa: E402  (found by the line above)
from support.waiting import until  # noqa: E402

#: Pixels around a card that are kept, and pixels of the file for one of CSS.
MARGIN = 4
SCALE = 2

SET_UP = """
    import socket, subprocess, sys
    from distmap import Pool

    def named(host):
        return f"import socket; socket.gethostname = lambda: {host!r}; "

    def start(name, slots):
        code = named(name) + "import sys; from distmap.worker.cli import main; sys.exit(main())"
        options = ["--port", "0", "--slots", str(slots), "--name", name, "--exit-if-orphaned", "5"]
        worker = subprocess.Popen(
            [sys.executable, "-c", code, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        return worker, worker.stdout.readline().split()[-1]

    exec(named("laptop"))
    workers = [start("gpu1", 3), start("gpu2", 2), start("lab7", 4)]
    pool = Pool([2, *(url for _, url in workers)], listen="wss://127.0.0.1:0")
    print(len(pool.wait_for_workers(4)), "workers")
"""
SCORE = """
    def score(n):
        import random, time
        time.sleep(random.expovariate(1 / (0.04 if n % 5 else 0.12)))
        if n % 331 == 200:
            raise ValueError(f"no reading for {n}")
        if random.random() < 0.004:
            raise ConnectionError("the database did not answer")
        return n * n

    job = pool.map_async(score, range(2_000), retries=1, on_error="return")
"""
LOSE = "workers[1][0].kill()"
END = """
    job.cancel()
    pool.terminate()
    for worker, _ in workers:
        worker.terminate()
    print("ended", [worker.wait() for worker, _ in workers])
"""


def take(book: Lab, cell: int, path: Path) -> None:
    """The card of a cell, with a margin of the notebook's ground."""
    box = book.panel(cell).bounding_box()
    assert box is not None
    clip = {
        "x": box["x"] - MARGIN,
        "y": box["y"] - MARGIN,
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + 2 * MARGIN,
    }
    path.write_bytes(book.page.screenshot(clip=clip))
    print(path)


def main(folder: Path) -> None:
    """Take the three pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-") as scratch:
        token = Path(scratch) / "token"
        os.environ["DISTMAP_TOKEN_FILE"] = str(token)
        from distmap.transport.token import Secret

        token.touch(mode=0o600)
        token.write_text(Secret.generate().reveal() + "\n", encoding="utf-8")
        server = Server(Path(scratch) / "lab")
        try:
            server.ready()
            with chromium() as browser:
                context = browser.new_context(viewport={"width": 1100, "height": 1500}, device_scale_factor=SCALE)
                book = Lab(server, context, server.root / "pictures", [SET_UP, SCORE, "pool", LOSE, END])
                book.command("application:toggle-left-area")
                book.run_through(0, 1)
                until(lambda: book.done_items(1) > 450, DEADLINE, "the map is on its way")
                book.run_through(2, 3)
                take(book, 2, folder / "pool.png")
                until(lambda: book.done_items(1) > 750, DEADLINE, "the map is half done")
                take(book, 1, folder / "panel.png")
                book.theme("JupyterLab Dark")
                take(book, 1, folder / "panel-dark.png")
                book.run(4)
                book.see(4, "ended")
                book.close()
                server.end_kernels()
        finally:
            server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
