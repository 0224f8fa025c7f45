"""A plan turned into the inputs that a program reads."""

from typing import Any

from ....artifact.program import StepInputs
from .step_plan import StepPlan


def step_inputs(plan: StepPlan[Any], groups: int) -> StepInputs:
    """Packs the scheduled sequences behind one another, in the plan's order, each one's drafts
    behind its own tokens.

    Block tables are the sequences' own lists, which nobody changes while the step runs.
    """
    sequences = plan.sequences
    holds = [s.hold for s in sequences]
    tables = [[hold.tables[g] for hold in holds if hold is not None] for g in range(groups)]
    if plan.only_decodes:
        everyone = range(len(sequences))
        positions = [s.computed for s in sequences]
        return StepInputs(
            token_ids=[s.tokens[p] for s, p in zip(sequences, positions, strict=True)],
            positions=positions,
            query_start=[*everyone, len(sequences)],
            context_len=[p + 1 for p in positions],
            logits_rows=[*everyone],
            block_tables=tables,
        )
    return _mixed(plan, tables)


def _mixed(plan: StepPlan[Any], tables: list[list[list[int]]]) -> StepInputs:
    tokens: list[int] = []
    positions: list[int] = []
    query_start, context_len, logits_rows = [0], [], []
    drafts = plan.drafts or ((),) * len(plan.sequences)
    for sequence, count, guessed, rows in zip(
        plan.sequences, plan.counts, drafts, plan.rows, strict=True
    ):
        tokens += sequence.tokens[sequence.computed : sequence.computed + count]
        tokens += guessed
        end = sequence.computed + count + len(guessed)
        positions += range(sequence.computed, end)
        query_start.append(len(tokens))
        context_len.append(end)
        logits_rows += range(len(tokens) - rows, len(tokens))
    return StepInputs(tokens, positions, query_start, context_len, logits_rows, tables)
