"""Logits of every position of a text, for evaluation and verification."""

from collections.abc import Iterator, Sequence

import numpy as np

from ...artifact.stateful_program import keeps_state
from ...base.arrays import Float32Array
from ...base.errors import LlmcError
from .engine import Engine
from .in_turn import make_copies
from .request import check_prompt
from .schedule.sequence import Sequence as TokenSequence
from .schedule.step_inputs import step_inputs
from .schedule.step_plan import StepPlan


def iter_logits(engine: Engine, token_ids: Sequence[int]) -> Iterator[tuple[int, Float32Array]]:
    """Yields (position of the first row, logits f32 [rows, vocab]) until the text is through.

    A step brings as many tokens as it may give rows. The rows are views that the next step
    overwrites. Errors: E0204 longer than the context, E0206, E0208, E0603 no free cache.
    """
    check_prompt(token_ids, engine.program.vocab_size)
    if len(token_ids) > engine.max_context:
        raise LlmcError(
            "LLMC-E0204", f"the text has {len(token_ids)} tokens, the context {engine.max_context}"
        )
    granted = engine.cache.admit(token_ids, reuse=False)
    if granted is None:
        raise LlmcError("LLMC-E0603", f"{len(token_ids)} tokens need more cache than is free")
    state = keeps_state(engine.program)
    sequence = TokenSequence(list(token_ids), len(token_ids), hold=granted[0])
    limits = engine.program.limits
    try:
        while sequence.uncomputed:
            start = sequence.computed
            count = min(sequence.uncomputed, limits.max_tokens, limits.max_logits_rows)
            engine.cache.grow(granted[0], start, start + count)
            plan = StepPlan((sequence,), (count,), (count,))
            engine.settle()
            make_copies(engine.cache.take_copies(), engine.program)  # what others have asked for
            inputs = step_inputs(plan, len(engine.cache.groups), state=state)
            outputs = engine.program.step(inputs)
            sequence.computed += count
            yield start, outputs.logits
    finally:
        engine.cache.release(granted[0], token_ids, sequence.computed)


def logits(engine: Engine, token_ids: Sequence[int]) -> Float32Array:
    """Logits f32 [T, vocab] of all positions at once: T * vocab * 4 bytes."""
    result = np.empty((len(token_ids), engine.program.vocab_size), np.float32)
    for start, rows in iter_logits(engine, token_ids):
        result[start : start + len(rows)] = rows
    return result
