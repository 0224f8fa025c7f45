"""What the inputs of a graph stand for: typed roles, so that nothing recognises one by its name.

A role prints behind the type (`input x: i32[T] as token_ids`). Inputs of a body, whose operands
differ from call to call, keep the kind of role without its number (`as state(key)`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class StepArray(StrEnum):
    """An array that a step brings; names are those of the program's signature."""

    TOKEN_IDS = "token_ids"
    """i32[T], or i64 before a program's own type is known."""
    POSITIONS = "positions"
    """[T], absolute."""
    QUERY_START = "query_start"
    """i32[S + 1]: where each sequence's query tokens begin."""
    CONTEXT_LEN = "context_len"
    """i32[S]: tokens of each sequence after this step."""
    START = "start"
    """i32[S]: tokens of each sequence before this step."""
    STATE_SLOT = "state_slot"
    """i32[S]: where what each sequence keeps besides a cache lies."""
    LOGITS_ROWS = "logits_rows"
    """i32[R]: query tokens that logits are wanted for."""


@dataclass(frozen=True, slots=True)
class Table:
    """Where each sequence's state of a group lies: a block table, or a slot. None: in a body."""

    group: int | None = None

    def __str__(self) -> str:
        return "table" if self.group is None else f"table({self.group})"


@dataclass(frozen=True, slots=True)
class State:
    """A tensor that outlives the step: `part` of what one site keeps. No site: in a body."""

    part: str
    site: int | None = None

    def __str__(self) -> str:
        return f"state({self.part})" if self.site is None else f"state({self.site}, {self.part})"


@dataclass(frozen=True, slots=True)
class Carried:
    """What a token finds of the token before it: part `number`, `initial` before the first token.

    Only in graphs of one token's step (`passes/raise_recurrence.py`), whose output `number + 1` is
    what the token leaves of it.
    """

    number: int
    initial: float = 0.0

    def __str__(self) -> str:
        return f"carried({self.number}, {self.initial!r})"


Role = StepArray | Table | State | Carried


def parse_role(text: str) -> Role:
    """The role that prints as `text`.

    Raises:
        ValueError: none does.
    """
    carried = re.fullmatch(r"carried\((\d+), (\S+)\)", text)
    if carried is not None:
        return Carried(int(carried.group(1)), float(carried.group(2)))
    found = re.fullmatch(r"(table|state)(?:\((?:(\d+)(?:, )?)?([a-z_]\w*)?\))?", text)
    if found is None:
        return StepArray(text)
    kind, number, part = found.groups()
    role = Table(_number(number)) if kind == "table" else State(part or "", _number(number))
    if str(role) != text:
        raise ValueError(f"{text!r} is no role")
    return role


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def without_number(role: Role | None) -> Role | None:
    """The role of a body's input whose operand has `role`."""
    if isinstance(role, Table):
        return Table()
    return State(role.part) if isinstance(role, State) else None
