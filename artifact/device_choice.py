"""Choices as a GPU reads them: one block of 32-bit words that is copied at once, and the results.

In: `Choice`s. Out: words. A record of 16 words for each choice comes first:

    0 row (-1: nothing to do)   4 top_p f32       8 edits: where    12 forbidden: how many
    1 target (-1: none)         5 min_p f32       9 … how many      13 top (-1: no report)
    2 1 / temperature f32 or 0  6 typical_p f32  10 allowed: where  14, 15 not used
    3 top_k                     7 uniform f32    11 forbidden: where

"Where" counts words from the beginning of the block (0: there is nothing). Behind the records lie
the lists: edits as ids, bias, penalty, minus and room for the logits before; forbidden ids; the
words of allowed bits. A result is: token, log-probability f32, two words between kernels, `TOP`
ids (-1 behind the last) and `TOP` log-probabilities f32.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from .choice import Choice

RECORD = struct.Struct("=iififfffiiiiii8x")
TOP = 32
"""How many alternatives a result has room for."""
RESULT = struct.Struct(f"=if8x{TOP}i{TOP}f")
_SKIP = RECORD.pack(-1, -1, 0.0, 0, *(0.0,) * 4, *(0,) * 5, -1)
_HEAD = struct.Struct("=if")
_NO_LISTS = (0, 0, 0, 0, 0)
_BELOW_ONE = 1.0 - 2.0**-24
"""The largest f32 below 1."""


def packed_bytes(choices: Sequence[Choice], records: int) -> int:
    """How many bytes `pack` writes. records: at least as many as there are choices."""
    return RECORD.size * records + sum(map(list_bytes, choices))


def list_bytes(choice: Choice) -> int:
    """What a choice takes beside its record."""
    edits, allowed, forbidden = choice.edits, choice.allowed, choice.forbidden
    nbytes = 4 * len(forbidden) if forbidden else 0
    if edits is not None:
        nbytes += 20 * len(edits)
    return nbytes if allowed is None else nbytes + allowed.nbytes


def pack(choices: Sequence[Choice], into: memoryview, records: int) -> None:
    """Writes choices, and records that say to do nothing behind them.

    into: bytes, at least `packed_bytes`. Bytes of `allowed` are a multiple of 4.
    """
    end = RECORD.size * records
    for place in range(records):
        if place < len(choices):
            end = _pack_one(choices[place], into, RECORD.size * place, end)
        else:
            into[RECORD.size * place : RECORD.size * (place + 1)] = _SKIP


def _pack_one(choice: Choice, into: memoryview, at: int, end: int) -> int:
    """Writes one record at byte `at`, its lists at `end`; returns where these end."""
    lists, end = _pack_lists(choice, into, end) if list_bytes(choice) else (_NO_LISTS, end)
    temperature, top_k, value = choice.temperature, choice.top_k, choice.uniform
    RECORD.pack_into(
        into,
        at,
        choice.row,
        choice.target,
        _rate(temperature) if temperature > 0 else 0.0,
        top_k if top_k > 0 else 0,
        choice.top_p,
        choice.min_p,
        choice.typical_p,
        value if value < _BELOW_ONE else _BELOW_ONE,
        *lists,
        choice.top,
    )
    return end


def _pack_lists(
    choice: Choice, into: memoryview, end: int
) -> tuple[tuple[int, int, int, int, int], int]:
    """Words 8 to 12 of the record, and where the lists end."""
    edits = choice.edits if choice.edits else None
    count, where = len(edits) if edits else 0, end // 4 if edits else 0
    if edits:
        for values in (edits.ids, edits.bias, edits.penalty, edits.minus):
            end = _copy(values, into, end)
        end += 4 * count
    allowed = 0
    if choice.allowed is not None:
        allowed = end // 4
        end = _copy(choice.allowed, into, end)
    forbidden = end // 4
    end = _copy(array("i", choice.forbidden), into, end)
    return (where, count, allowed, forbidden, len(choice.forbidden)), end


def _rate(temperature: float) -> float:
    """What differences of logits are multiplied with."""
    return min(1 / temperature, 1e38)


def _copy(values: array | memoryview, into: memoryview, at: int) -> int:
    data = memoryview(values).cast("B")
    into[at : at + len(data)] = data
    return at + len(data)


def read_results(choices: Sequence[Choice], results: memoryview) -> None:
    """Fills in what came out. results: bytes, `RESULT.size` for each choice."""
    for place, choice in enumerate(choices):
        at, count = RESULT.size * place, choice.top
        choice.token, logprob = _HEAD.unpack_from(results, at)
        if count < 0:
            continue
        choice.logprob = logprob
        top = RESULT.unpack_from(results, at)[2:]
        pairs = zip(top[:count], top[TOP : TOP + count], strict=True)
        choice.alternatives = [(token, value) for token, value in pairs if token >= 0]
