"""How much cache a program gets, and for how many sequences that is room.

In: a variant's memory plan and the memory that there is. Out: blocks per cache group, which grow
with tokens, and slots for state, of which a sequence has one. Slots that no sequence uses keep
snapshots of state for the prefix cache.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ...artifact.manifest import Variant
from ...artifact.program import Program
from ...artifact.stateful_program import keeps_state
from ...artifact.targets import TritonProgramOptions
from ...base import machine
from ...base.errors import LlmcError
from ..engine.cache.block_pool import blocks_needed

_STATE_SHARE = 0.5
"""Of a budget, where a program has both: the most that slots get while blocks are short."""
_MOST_SLOTS = 4
"""Times as many slots as sequences can run: a conversation has up to three snapshots of use."""


class CachePlan(NamedTuple):
    """`blocks`: of each cache group. `slots`: of state."""

    blocks: tuple[int, ...]
    slots: int = 0


def fixed_bytes(variant: Variant, weights_bytes: int) -> int:
    """Memory that a program takes besides its cache: weights, arena, logits or what is kept."""
    options = variant.options
    if isinstance(options, TritonProgramOptions):
        kept = options.plan.kept_bytes + options.plan.step_bytes
    else:
        kept = variant.limits.max_logits_rows * variant.vocab_size * 4
    return weights_bytes + variant.memory_plan.arena_bytes + kept


def plan_cache(
    variant: Variant,
    *,
    weights_bytes: int,
    max_context: int | None,
    memory: int | None,
    available: int | None = None,
    share: float = 0.5,
) -> CachePlan:
    """Blocks and slots, by the memory plan.

    `memory`: bytes that the whole model may take; if None, a `share` of what is left (`available`;
    default: of the machine's memory) beside weights and workspace. At most what `max_sequences`
    sequences of `max_context` need, and of slots four times `max_sequences`. E0601 if not even one
    chunk of a prompt fits.
    """
    limits = variant.limits
    context = min(max_context or limits.max_context, limits.max_context)
    fixed = fixed_bytes(variant, weights_bytes)
    available = machine.available_memory() if available is None else available
    budget = memory - fixed if memory is not None else int((available - fixed) * share)
    slot = 0 if variant.state is None else variant.state.bytes_per_slot
    least = slot + _bytes(variant, _blocks(variant, min(context, limits.max_tokens)))
    if budget < least:
        needed = (fixed + least) >> 20
        have = (memory if memory is not None else available) >> 20
        raise LlmcError("LLMC-E0601", f"the model needs at least {needed} MiB, of {have} MiB")
    if not slot:
        return CachePlan(_plan_blocks(variant, budget, context))
    most = _MOST_SLOTS * limits.max_sequences
    few = min(int(budget * _STATE_SHARE), budget - least + slot) // slot
    slots = max(1, min(few, most))
    blocks = _plan_blocks(variant, budget - slots * slot, context)
    left = budget - _bytes(variant, blocks)  # blocks may have had enough, or there are none
    return CachePlan(blocks, max(slots, min(left // slot, most)))


def _plan_blocks(variant: Variant, budget: int, context: int) -> tuple[int, ...]:
    """Blocks of each group for a budget that at least one chunk of a prompt fits into."""
    full = _blocks(variant, context)
    whole = max(1, _bytes(variant, full))
    if budget >= whole:  # all of the budget, and not whole sequences only: most are shorter
        most = variant.limits.max_sequences
        return tuple(min(blocks * budget // whole, blocks * most) for blocks in full)
    return _largest_context(variant, budget, variant.limits.max_tokens, context)


def _largest_context(variant: Variant, budget: int, low: int, high: int) -> tuple[int, ...]:
    """Blocks for one sequence as long as the budget allows, by bisection."""
    while low < high:
        middle = (low + high + 1) // 2
        if _bytes(variant, _blocks(variant, middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    return _blocks(variant, low)


def _blocks(variant: Variant, length: int) -> tuple[int, ...]:
    most = variant.limits.max_tokens
    return tuple(blocks_needed(group, length, most) for group in variant.cache_groups)


def _bytes(variant: Variant, blocks: Sequence[int]) -> int:
    groups = variant.cache_groups
    return sum(n * g.bytes_per_block for n, g in zip(blocks, groups, strict=True))


class Capacity(NamedTuple):
    """What a cache has room for: so many sequences of so many tokens each, at once. `tokens`: in
    all, where every layer keeps all of them; `nbytes`: memory of the cache, and of state.
    `snapshots`: of state, that are kept while so many sequences run."""

    sequences: int
    context: int
    tokens: int
    nbytes: int
    snapshots: int = 0

    def __str__(self) -> str:
        size = self.nbytes >> 20
        further = f", {self.snapshots} snapshots of state" if self.snapshots else ""
        return f"{self.sequences} sequences × {self.context} tokens ({size} MiB of cache{further})"


def capacity_of(program: Program, max_context: int) -> Capacity:
    """The capacity of a running program. More, shorter sequences fit as well, up to its limit."""
    limits, pools = program.limits, program.cache_blocks
    slots = program.state_slots if keeps_state(program) else 0
    most = min(limits.max_sequences, slots) if slots else limits.max_sequences
    groups = tuple(zip(program.cache_groups, pools, strict=True))

    def fitting(length: int) -> int:
        """How many sequences of this length."""
        needed = (blocks_needed(group, length, limits.max_tokens) for group, _ in groups)
        counts = [pool // blocks for pool, blocks in zip(pools, needed, strict=True)]
        return min([most, *counts])

    low, context = 1, max_context
    if not fitting(context):  # one sequence, as long as it may become
        while low < context:
            middle = (low + context + 1) // 2
            low, context = (middle, context) if fitting(middle) else (low, middle - 1)
    full = [group.block_size * pool for group, pool in groups if not group.window]
    nbytes = sum(group.bytes_per_block * pool for group, pool in groups)
    nbytes += slots * program.state.bytes_per_slot if keeps_state(program) else 0
    sequences = fitting(context)
    tokens = min(full, default=sequences * context)
    return Capacity(sequences, context, tokens, nbytes, max(0, slots - sequences))
