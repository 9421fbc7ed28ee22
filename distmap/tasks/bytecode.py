"""The behaviour of a code object, apart from where and how its source was written.

Owns the normal form of bytecode: equal for one source with other line breaks, comments, docstrings, line numbers and
file names. Must not know functions, globals or values. For the kernel: task processes do not import this.

The compiler leaves traces of the layout of a source: a NOP for a line of its own, a jump to a jump where the two are
not on one line, two instructions in one (3.13) where they are. The normal form is the graph of the instructions without
those, in which instructions that behave alike are one.
"""

from __future__ import annotations

from collections.abc import Callable
from dis import Bytecode, hasconst, hasjabs, hasjrel
from hashlib import sha256
from itertools import pairwise
from types import CodeType
from typing import Any

from distmap.tasks._typing import NamedTuple

#: Gives the bytes that stand for a constant.
Encode = Callable[[object], bytes]

#: Of `co_flags`: optimized, newlocals, *args, **kwargs, generator, coroutine, iterable coroutine, async generator.
_FLAGS = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x80 | 0x100 | 0x200
_OPTIMIZED, _VARIADIC = 0x1, (0x4, 0x8)
_NOTHING = {"NOP", "EXTENDED_ARG", "CACHE", "NOT_TAKEN"}
_JUMPS = {"JUMP", "JUMP_NO_INTERRUPT", "JUMP_ABSOLUTE"}
#: After these control goes elsewhere or nowhere.
_ENDS = {"RETURN_VALUE", "RAISE_VARARGS", "RERAISE"}
_READS_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
#: These raise nothing (or only what makes no sense to handle), so that it does not matter who would handle it.
_SAFE = {"LOAD_FAST", "STORE_FAST", "LOAD_CONST", "COPY", "SWAP", "POP_TOP", "PUSH_NULL"}
#: Which way of the two is the jump follows from the layout.
_OPPOSITES = {"POP_JUMP_IF_TRUE": "POP_JUMP_IF_FALSE", "POP_JUMP_IF_NOT_NONE": "POP_JUMP_IF_NONE"}
#: Names that the body of a class sets by itself, and that say nothing of what it does.
_OF_CLASSES = {"__doc__", "__firstlineno__", "__static_attributes__"}


class _Step(NamedTuple):
    """An instruction with what may come after it, as indexes of steps; -1: nothing."""

    does: tuple[object, ...]
    then: int
    jump: int = -1
    handler: int = -1


#: What runs for ever without doing anything.
_LOOP = _Step(("LOOP",), -1)


def digest_of_code(code: CodeType, encode: Encode) -> bytes:
    """The digest of what a code object does, nested ones included."""
    arguments = code.co_argcount + code.co_kwonlyargcount + sum(bool(code.co_flags & flag) for flag in _VARIADIC)
    head = (
        code.co_name,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags & _FLAGS,
        code.co_varnames[:arguments],
        sorted(code.co_freevars),
    )
    steps = _in_order(*_without_jumps(_steps(code, encode)))
    return sha256(repr((head, steps)).encode("utf-8", "surrogatepass")).digest()


def globals_of(code: CodeType) -> set[str]:
    """The names of globals that a code object reads, nested ones included."""
    names = {step.argval for step in Bytecode(code) if step.opname in _READS_GLOBAL}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= globals_of(constant)
    return names


def attributes_of(code: CodeType, name: str) -> set[str] | None:
    """The attributes that a code object takes of a global, nested ones included; None if it does anything else."""
    found: set[str] = set()
    steps = [step for step in Bytecode(code) if step.opname not in _NOTHING]
    for step, after in pairwise(steps):
        if step.opname in _READS_GLOBAL and step.argval == name:
            if after.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                return None
            found.add(after.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = attributes_of(constant, name)
            if inner is None:
                return None
            found |= inner
    return found


def _steps(code: CodeType, encode: Encode) -> list[_Step]:
    """The instructions, in the order of the bytecode."""
    listing: Any = Bytecode(code)
    instructions = list(listing)
    done = [_taken_apart(code, step, encode) for step in instructions]
    if not code.co_flags & _OPTIMIZED:
        for at, pieces in enumerate(done):
            if pieces and pieces[0][0] == "STORE_NAME" and pieces[0][1] in _OF_CLASSES and at:
                if done[at - 1] and str(done[at - 1][0][0]).startswith("LOAD_"):
                    done[at - 1] = done[at] = []
    starts: dict[int, int] = {}
    count = 0
    for step, pieces in zip(instructions, done, strict=True):
        starts[step.offset] = count
        count += max(1, len(pieces))
    steps: list[_Step] = []
    for step, pieces in zip(instructions, done, strict=True):
        entry = next((entry for entry in listing.exception_entries if entry.start <= step.offset < entry.end), None)
        handler, how = (-1, ()) if entry is None else (starts[entry.target], (entry.depth, entry.lasti))
        jump = starts[step.argval] if step.opcode in hasjrel or step.opcode in hasjabs else -1
        if not pieces:
            steps.append(_Step((), jump if jump >= 0 else len(steps) + 1))
        for does in pieces:
            name, *argument = does
            then = -1 if name in _ENDS else len(steps) + 1
            if name in _SAFE:
                steps.append(_Step(does, then))
            elif name in _OPPOSITES:
                steps.append(_Step((_OPPOSITES[name], *how), jump, then, handler))
            else:
                steps.append(_Step((name, *argument, *how), then, jump, handler))
    return steps


def _taken_apart(code: CodeType, step: Any, encode: Encode) -> list[tuple[Any, ...]]:
    """What an instruction does: nothing, one thing, or two."""
    name = step.opname.replace("_FORWARD", "").replace("_BACKWARD", "").replace("_BORROW", "")
    if name in _NOTHING or name in _JUMPS:
        return []
    if step.opcode in hasconst:
        constant = code.co_consts[step.arg]  # dis does not look it up for each of these instructions
        encoded = digest_of_code(constant, encode) if isinstance(constant, CodeType) else encode(constant)
        if name == "RETURN_CONST":
            return [("LOAD_CONST", encoded), ("RETURN_VALUE",)]
        return [(name, encoded)]
    if isinstance(step.argval, tuple) and name.count("_FAST") == 2:
        first, _, second = name.partition("_FAST")
        return [(f"{first}_FAST", step.argval[0]), (second.strip("_"), step.argval[1])]
    if step.opcode in hasjrel or step.opcode in hasjabs:
        return [(name,)]
    return [(name,)] if step.arg is None else [(name, step.argval)]


def _without_jumps(steps: list[_Step]) -> tuple[list[_Step], int]:
    """The same without what does nothing but lead to another step; and where it begins."""
    steps = [*steps, _LOOP]

    def real(at: int) -> int:
        passed = set()
        while at >= 0 and not steps[at].does:
            if at in passed:
                return len(steps) - 1
            passed.add(at)
            at = steps[at].then
        return at

    led = [*map(real, range(len(steps))), -1]  # the last one is that of the index -1
    return [_Step(step.does, led[step.then], led[step.jump], led[step.handler]) for step in steps], led[0]


def _without_copies(steps: list[_Step]) -> list[int]:
    """A number for each step, the same for those that cannot be told apart by what they and their followers do."""
    numbers: list[int] = [0] * len(steps)
    count = 0
    while True:
        known: dict[object, int] = {}
        numbers.append(-1)  # for the index -1
        numbers = [
            known.setdefault((numbers[at], step.does, *[numbers[next_] for next_ in step[1:]]), len(known))
            for at, step in enumerate(steps)
        ]
        if len(known) == count:
            return numbers
        count = len(known)


def _in_order(steps: list[_Step], entry: int) -> list[tuple[object, ...]]:
    """The steps that can be reached, numbered as they are met."""
    same = _without_copies(steps)
    order = {same[entry]: 0}
    queue = [entry]
    found: list[tuple[object, ...]] = []
    for at in queue:  # grows
        step = steps[at]
        line: list[object] = [*step.does]
        for follower in step[1:]:
            if follower >= 0 and same[follower] not in order:
                order[same[follower]] = len(order)
                queue.append(follower)
            line.append(order[same[follower]] if follower >= 0 else -1)
        found.append(tuple(line))
    return found
