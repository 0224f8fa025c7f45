"""A plan turned into the arrays that a program reads."""

import numpy as np

from .blocks import CacheHold, CacheManager
from .program import StepInputs
from .scheduler import StepPlan


def step_inputs(plan: StepPlan, cache: CacheManager) -> StepInputs:
    """Packs the scheduled sequences behind one another, in the plan's order."""
    items = plan.scheduled
    counts = np.array([item.count for item in items], np.int32)
    starts = np.array([item.start for item in items], np.int32)
    query_start = np.zeros(len(items) + 1, np.int32)
    np.cumsum(counts, out=query_start[1:])
    tokens: list[int] = []
    holds: list[CacheHold] = []
    for item in items:
        tokens += item.sequence.tokens[item.start : item.start + item.count]
        assert item.sequence.hold is not None
        holds.append(item.sequence.hold)
    offsets = np.repeat(starts - query_start[:-1], counts)
    wanted = np.array([item.wants_logits for item in items], bool)
    return StepInputs(
        token_ids=np.array(tokens, np.int32),
        positions=(np.arange(len(tokens)) + offsets).astype(np.int32),
        query_start=query_start,
        context_len=starts + counts,
        logits_rows=query_start[1:][wanted] - 1,
        block_tables=cache.tables(holds),
    )
