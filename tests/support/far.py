"""A far side for tests: a fresh interpreter that holds a Runner, spoken to in pickles over two pipes.

Imported by scripts that tests run as `__main__` (what `__main__` is matters there), with `tests/` on their path.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

from distmap.tasks.code import dump_code
from distmap.tasks.failures import Failure, revive
from distmap.tasks.items import dump_items, load_results
from distmap.tasks.payload import Payload
from distmap.tasks.runner import Runner
from distmap.wire.messages import Refused, Task

TESTS = Path(__file__).resolve().parents[1]


class Far:
    def __init__(self, folder: str = "/") -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
        command = [sys.executable, "-c", "from support import far; far.serve()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, env=env)
        self.put: set[bytes] = set()
        self.tasks = 0

    def __enter__(self) -> Far:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.communicate()

    def map(self, fn, items, **options):
        """The results; a failure is raised."""
        values = self.outcomes(fn, items, **options)
        for index, value in enumerate(values):
            if isinstance(value, Failure):
                raise revive(value, index=index, worker="far", attempt=1)
        return values

    def outcomes(self, fn, items, **options):
        code = dump_code(fn, **options)
        payload, blobs = dump_items(items)
        needs = (*code.blobs, *blobs)
        for digest, kind, content, *_ in (*needs, (code.digest, "code", code.payload)):
            if digest not in self.put:
                self.put.add(digest)
                self.say("put", digest, kind, content)
        self.tasks += 1
        task = Task(0, self.tasks, code.digest, tuple(blob.digest for blob in needs), 0, len(items), 0, 0.0)
        self.say("run", task, payload)
        values = []
        while True:
            message, parts = pickle.load(self.process.stdout)
            if isinstance(message, Refused):
                return load_results(parts, 0, 1)
            values += load_results(parts, message.lo, message.hi, message.failed)
            if message.ended:
                return values

    def say(self, word, *content):
        *rest, payload = content
        pickle.dump((word, *rest, flat(payload)), self.process.stdin)
        self.process.stdin.flush()


def flat(payload: Payload) -> list[bytearray]:
    return [bytearray(part) for part in payload.parts]


def serve() -> None:
    out = os.fdopen(os.dup(1), "wb")
    runner = Runner()

    def emit(message, payload):
        pickle.dump((message, flat(payload)), out)
        out.flush()

    while True:
        try:
            word, *content, parts = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        payload = Payload(parts[0], tuple(parts[1:]))
        if word == "put":
            runner.put(*content, payload)
        else:
            runner.run(*content, payload, [-1] * 8, emit)
