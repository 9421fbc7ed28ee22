"""What a task process says of where it stands, in words for people; and the state in which the system has it.

Owns the reading of faulthandler's text and of the state letter. Knows no slots; nothing here waits.
"""

from __future__ import annotations

import os
import re

from distmap.tasks.caller import PACKAGE

#: Threads whose stacks are told beside that of the item, frames of a stack, and characters in all.
_OTHERS, _FRAMES, _CHARACTERS = 3, 30, 6000

#: Compiled when they are used, which is rare.
_HEAD = r"^(?:Current thread|Thread) 0x[0-9a-f]+ .*:$"
_FRAME = r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$'
_ESCAPE = r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))"
#: How a thread begins; no thread that is of interest ends there.
_BOOTSTRAP = "_bootstrap", "_bootstrap_inner"

#: What the letters of the system mean, where they explain that nothing happens.
STATES = {
    "D": "in an uninterruptible wait of the system (state D), as for a disk or file server that does not answer",
    "T": "stopped by a signal (state T)",
    "t": "stopped by a debugger (state t)",
}


def state_of(pid: int) -> str:
    """The letter of the state of a process: R, S, D, T, t, Z; empty if it is gone, or the system is not Linux."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read(512)
    except OSError:
        return ""
    # The name of the program stands before it in parentheses, and may have any characters.
    return text[text.rindex(b")") + 2 :][:1].decode("latin-1")


def stack_of(text: str) -> str:
    """Where the threads of a task process stand, the innermost call last; empty if the text does not say.

    The thread that runs the item comes first. Frames of distmap are left out.

    Args:
        text: what faulthandler wrote.
    """
    threads: list[list[tuple[str, str, str]]] = []
    for line in text.splitlines():
        if re.match(_HEAD, line):
            threads.append([])
        elif threads and (frame := re.match(_FRAME, line)):
            threads[-1].insert(0, (_plain(frame[1]), frame[2], _plain(frame[3])))
    item = next((frames for frames in threads if _is_main(frames)), [])
    others = [users for frames in threads if frames is not item and (users := _users(frames))]
    lines = _lines(_users(item))
    for frames in others[:_OTHERS]:
        lines += ["in another thread:", *_lines(frames)]
    if len(others) > _OTHERS:
        lines.append(f"and in {len(others) - _OTHERS} more threads")
    return "\n".join(lines)[:_CHARACTERS]


def _plain(text: str) -> str:
    """The text without the escapes that faulthandler writes for what is not ASCII."""
    return re.sub(_ESCAPE, lambda found: chr(int(found[1] or found[2] or found[3], 16)), text)


def _is_main(frames: list[tuple[str, str, str]]) -> bool:
    return any(file == f"{PACKAGE}slots{os.sep}child.py" and name == "main" for file, _, name in frames)


def _users(frames: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The frames without distmap's, and without the way to them."""
    if _is_main(frames):
        own = [at for at, frame in enumerate(frames) if frame[0].startswith(PACKAGE)]
        frames = frames[own[0] :]
    return [frame for frame in frames if not frame[0].startswith(PACKAGE) and frame[2] not in _BOOTSTRAP]


def _lines(frames: list[tuple[str, str, str]]) -> list[str]:
    cut = ["  ..."] if len(frames) > _FRAMES else []
    return cut + [f'  File "{file}", line {line}, in {name}' for file, line, name in frames[-_FRAMES:]]
