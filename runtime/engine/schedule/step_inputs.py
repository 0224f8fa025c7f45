"""A plan turned into the inputs that a program reads."""

from typing import Any

from ....artifact.program import StepInputs
from .step_plan import StepPlan


def step_inputs(plan: StepPlan[Any], groups: int, *, state: bool = False) -> StepInputs:
    """Packs the scheduled sequences behind one another, in the plan's order, each one's drafts
    behind its own tokens.

    Block tables are the sequences' own lists, which nobody changes while the step runs. `state`:
    whether the program keeps some.
    """
    decodes = plan.decodes
    if decodes is not None and not plan.drafts:
        tokens, positions, holds = decodes
        rows = [*range(len(tokens))]
        return StepInputs(
            token_ids=tokens,
            positions=positions,
            query_start=[*rows, len(rows)],
            context_len=[position + 1 for position in positions],
            logits_rows=rows,
            block_tables=[[hold.tables[group] for hold in holds] for group in range(groups)],
            state_slots=[hold.slot for hold in holds] if state else (),
        )
    return _mixed(plan, groups, state)


def _mixed(plan: StepPlan[Any], groups: int, state: bool) -> StepInputs:
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
    holds = [s.hold for s in plan.sequences if s.hold is not None]
    return StepInputs(
        tokens,
        positions,
        query_start,
        context_len,
        logits_rows,
        block_tables=[[hold.tables[group] for hold in holds] for group in range(groups)],
        state_slots=[hold.slot for hold in holds] if state else (),
    )
