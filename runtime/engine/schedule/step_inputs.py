"""A plan turned into the inputs that a program reads."""

from typing import Any

from ....artifact.program import StepInputs
from .scheduler import StepPlan


def step_inputs(plan: StepPlan[Any], groups: int) -> StepInputs:
    """Packs the scheduled sequences behind one another, in the plan's order.

    Block tables are the sequences' own lists, which nobody changes while the step runs.
    """
    sequences = plan.sequences
    tables = [[s.hold.tables[g] for s in sequences if s.hold is not None] for g in range(groups)]
    if plan.tokens == len(sequences):  # everybody decodes: most steps
        everyone = range(len(sequences))
        positions = [s.computed for s in sequences]
        return StepInputs(
            token_ids=[s.tokens[p] for s, p in zip(sequences, positions, strict=True)],
            positions=positions,
            query_start=[*everyone, len(sequences)],
            context_len=[p + 1 for p in positions],
            logits_rows=[i for i, wanted in enumerate(plan.rows) if wanted],
            block_tables=tables,
        )
    return _mixed(plan, tables)


def _mixed(plan: StepPlan[Any], tables: list[list[list[int]]]) -> StepInputs:
    tokens: list[int] = []
    positions: list[int] = []
    query_start, context_len, logits_rows = [0], [], []
    for sequence, count, rows in zip(plan.sequences, plan.counts, plan.rows, strict=True):
        end = sequence.computed + count
        tokens += sequence.tokens[sequence.computed : end]
        positions += range(sequence.computed, end)
        query_start.append(len(tokens))
        context_len.append(end)
        logits_rows += range(len(tokens) - rows, len(tokens))
    return StepInputs(tokens, positions, query_start, context_len, logits_rows, tables)
