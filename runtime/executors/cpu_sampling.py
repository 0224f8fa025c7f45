"""Draws tokens with a library's `llmc_sample`: choices packed into C structs, results read back."""

import ctypes
import struct
from array import array
from collections.abc import Callable, Sequence
from functools import partial

from ...artifact.choice import Choice, Edits
from ...base.errors import LlmcError
from .native_memory import address_of

CHOICE = struct.Struct("=IiQQffffiiQQQQQQiidQQif")
"""`llmc_choice` of llmc.h, whose members need no padding."""
_RESULT = struct.Struct("=if")
_RESULT_AT = CHOICE.size - _RESULT.size
_TOP = 32
"""Alternatives that there is always room for."""


class NativeDraw:
    """Calls `sample(choices, count) -> code` for rows that begin at address `logits`."""

    def __init__(
        self, sample: Callable[[int, int], int], logits: int, row_bytes: int, max_rows: int
    ) -> None:
        self._sample, self._logits, self._row_bytes = sample, logits, row_bytes
        self._structs = memoryview(bytearray(CHOICE.size * max_rows))
        self._address = address_of(self._structs)
        self._top_ids = array("i", bytes(4 * _TOP * max_rows))
        self._top_logprobs = array("f", bytes(4 * _TOP * max_rows))
        self._ids_at = self._top_ids.buffer_info()[0]
        self._logprobs_at = self._top_logprobs.buffer_info()[0]

    def __call__(self, choices: Sequence[Choice]) -> None:
        """Fills the results of these choices. E0102 if the library fails."""
        alive = [self._pack(place, choice) for place, choice in enumerate(choices)]
        code = self._sample(self._address, len(choices))
        del alive
        if code != 0:
            raise LlmcError("LLMC-E0102", f"drawing tokens failed (code {code})")
        result, structs, at = _RESULT.unpack_from, self._structs, _RESULT_AT
        for place, choice in enumerate(choices):
            choice.token, choice.logprob = result(structs, at)
            at += CHOICE.size
            if choice.top > 0:
                first, end = place * _TOP, place * _TOP + choice.top
                pairs = zip(self._top_ids[first:end], self._top_logprobs[first:end], strict=True)
                choice.alternatives = [(token, value) for token, value in pairs if token >= 0]

    def _pack(self, place: int, choice: Choice) -> object:
        """Writes one struct; returns what must live until the call is over."""
        edits, alive, sparse = choice.edits, None, _NO_EDITS
        if edits or choice.forbidden:
            sparse, alive = _sparse(edits, choice)
        CHOICE.pack_into(
            self._structs,
            place * CHOICE.size,
            CHOICE.size,
            choice.target,
            self._logits + choice.row * self._row_bytes,
            address_of(choice.allowed) if choice.allowed is not None else 0,
            choice.temperature,
            choice.top_p,
            choice.min_p,
            choice.typical_p,
            choice.top_k,
            *sparse,
            choice.top,
            choice.uniform,
            self._ids_at + 4 * _TOP * place,
            self._logprobs_at + 4 * _TOP * place,
            0,
            0.0,
        )
        return alive


_NO_EDITS = (0,) * 8


def _sparse(edits: Edits | None, choice: Choice) -> tuple[tuple[int, ...], object]:
    """The members of a struct from `edits` to `forbidden_count`, and what they point to."""
    count, addresses, before = 0, (0, 0, 0, 0, 0), None
    if edits:
        count = len(edits)
        before = array("f", bytes(4 * count)) if choice.top >= 0 else None
        arrays = (edits.ids, edits.bias, edits.penalty, edits.minus)
        addresses = (
            *(a.buffer_info()[0] for a in arrays),
            before.buffer_info()[0] if before else 0,
        )
    forbidden = array("i", choice.forbidden)
    return (count, *addresses, forbidden.buffer_info()[0], len(forbidden)), (before, forbidden)


def native_draw(
    library: ctypes.CDLL, handle: int, logits: memoryview, rows: int
) -> NativeDraw | None:
    """How a program draws from its rows of logits; None if its library has no code for it."""
    sample = getattr(library, "llmc_sample", None)
    if sample is None:
        return None
    sample.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
    address, row_bytes = address_of(logits), logits.nbytes // rows
    return NativeDraw(partial(sample, handle), address, row_bytes, rows)
