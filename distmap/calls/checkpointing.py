"""The checkpoint of one call: its file is opened, what is known is left out, what comes is written down.

Owns the joining of the parts: the store, what is known (`recall.py`), the journal (`journal.py`) and the server of the
call. All in the thread that makes the call, but for what its methods say.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from distmap.calls.journal import Journal
from distmap.calls.recall import AGAIN, LATER, Bounds, Recall
from distmap.checkpoint.keys import Keyer
from distmap.checkpoint.known import Known
from distmap.checkpoint.reader import ReportReader
from distmap.checkpoint.sections import Behaviour
from distmap.checkpoint.store import Store, close_store, open_store
from distmap.core.events import PauseRequested, ResumeRequested
from distmap.core.limits import LIMITS
from distmap.tasks.fingerprint import changes, fingerprint
from distmap.views.base import Issue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from distmap.calls.inputs import Input
    from distmap.calls.options import MapOptions
    from distmap.calls.serving import Serving
    from distmap.driver.messages import ReadRequest

log = logging.getLogger("distmap")


class Checkpointed:
    """What a call with a checkpoint has besides. Made before its job begins.

    Args:
        style: how an item is given to `fn`.
        kept: what else than the options changes results.

    Raises:
        CheckpointError: the file cannot be used; see `errors.py` for the kinds.
    """

    def __init__(
        self,
        serving: Serving,
        fn: Callable[..., Any],
        source: Input,
        options: MapOptions,
        *,
        style: str,
        kept: Mapping[str, Any],
    ) -> None:
        path = options.checkpoint
        assert path is not None
        self._serving = serving
        found = fingerprint(fn)
        settings: dict[str, Any] = dict(kept)
        if options.seed is not None:
            settings["seed"] = options.seed
        behaviour = Behaviour(found.name, style, found.digest, found.parts, settings, found.versions())
        self._store = store = open_store(path)
        try:
            section = store.section(behaviour, options.on_change, changes)
            record = serving.record
            gather = record.spec.gather
            self._journal = Journal(
                store, section.function, serving.forward, self, ordered=gather in ("ordered", "fold"),
                linger=LIMITS.checkpoint_commit_seconds if gather == "list" else 0.0,
            )  # fmt: skip
            keyer = Keyer(self.tell)
            known = Known(
                store, section, keyer, options.on_change, exact=options.seed is not None,
                rest=lambda index: source.behind(index, LIMITS.checkpoint_search_items), tell=self.tell,
            )  # fmt: skip
            streams = gather in ("ordered", "unordered")
            ahead = LIMITS.checkpoint_ahead_items if streams else None
            bounds = Bounds(options.chunksize, record.spec.buffer, ahead)
            self._recall = Recall(source, known, keyer, ReportReader(path), self._journal.deliver, self._count, bounds)
        except BaseException:
            close_store(store)
            raise
        record.checkpoint = os.path.basename(path)
        record.sink = self._journal.take
        if section.notice:
            self.tell(section.notice)

    def begin(self) -> None:
        """The job begins."""
        name = f"distmap-journal-{self._serving.record.spec.name}"
        try:
            threading.Thread(target=self._journal.run, name=name, daemon=True).start()
        except RuntimeError:  # no thread can be started
            close_store(self._store)
            raise

    def leave(self) -> None:
        """Nobody waits for the job any more, though its last message may not have come: end the journal; any thread."""
        self._journal.stop()

    # --- for the server of the call -----------------------------------------------------------------------------------

    def read(self, message: ReadRequest) -> None:
        """Answer a request to read, in the thread that reads the input."""
        serving = self._serving
        portal, driver = serving.context
        job = serving.record.id
        try:
            found = self._recall.read(message.most)
        except Exception as error:
            portal.call(driver.input_failed, job, message.chunk, error)
            return
        if found == AGAIN:
            serving.ask_again(message)
        elif found == LATER:
            self._recall.wait(partial(serving.ask_again, message))
        else:
            assert not isinstance(found, str)
            payload, blobs, count, last, start, keys = found
            if count:
                self._journal.expect(start, count, keys)
            portal.call(driver.chunk_read, job, message.chunk, payload, blobs, count, last, start)

    def consumed(self, count: int, *, known: bool) -> None:
        """The consumer took so many items; any thread."""
        self._recall.consumed(count, known=known)

    def open_wide(self) -> None:
        """Nobody consumes any more; any thread."""
        self._recall.open_wide()

    def _count(self, count: int) -> None:
        portal, driver = self._serving.context
        portal.call(driver.recalled, self._serving.record.id, count)

    # --- for the journal, in its thread -------------------------------------------------------------------------------

    def hold(self) -> None:
        self._notify(PauseRequested)

    def go_on(self) -> None:
        if not self._serving.controls.paused:
            self._notify(ResumeRequested)

    def end(self, error: BaseException) -> None:
        portal, driver = self._serving.context
        portal.call(driver.cancel, self._serving.record.id, error)

    def is_given_up(self) -> bool:
        return self._serving.controls.cancelled or self._serving.context.portal.loop.is_closed()

    def say(self, sentence: str) -> None:
        log.warning("! %s", sentence)
        self._serving.display.add_issue(Issue("note", None, "", 0, sentence))

    def tell(self, sentence: str) -> None:
        """Show it now, and warn of it when the call is over; any thread."""
        self._serving.sentences.append(sentence)
        self.say(sentence)

    def _notify(self, event: Callable[[int], Any]) -> None:
        portal, driver = self._serving.context
        portal.call(driver.notify, event(self._serving.record.id))


def kept_batch_size(path: str, fn: Callable[..., Any]) -> int | None:
    """The size of the batches whose results are there: whoever gives none gets the same again, on any machine."""
    store: Store = open_store(path)
    try:
        found = store.options_of(fingerprint(fn).name, "one").get("batch_size")
        return None if found is None else int(found)
    finally:
        close_store(store)
