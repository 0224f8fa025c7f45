"""A plan turned into the inputs that a program reads."""

from ..program import StepInputs
from .blocks import CacheHold, CacheManager
from .scheduler import StepPlan


def step_inputs(plan: StepPlan, cache: CacheManager) -> StepInputs:
    """Packs the scheduled sequences behind one another, in the plan's order."""
    tokens: list[int] = []
    positions: list[int] = []
    query_start, context_len, logits_rows = [0], [], []
    holds: list[CacheHold] = []
    for item in plan.scheduled:
        end = item.start + item.count
        tokens += item.sequence.tokens[item.start : end]
        positions += range(item.start, end)
        query_start.append(len(tokens))
        context_len.append(end)
        if item.wants_logits:
            logits_rows.append(len(tokens) - 1)
        assert item.sequence.hold is not None
        holds.append(item.sequence.hold)
    return StepInputs(
        token_ids=tokens,
        positions=positions,
        query_start=query_start,
        context_len=context_len,
        logits_rows=logits_rows,
        block_tables=cache.tables(holds),
    )
