"""Block pool and scheduler under random traffic: nothing used twice, nothing lost, limits kept."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.runtime.artifact import CacheGroup
from llmc.runtime.engine.batch import step_inputs
from llmc.runtime.engine.blocks import FREED, BlockPool, CacheManager, blocks_needed
from llmc.runtime.engine.scheduler import Scheduler, Sequence
from llmc.runtime.program import check_inputs


def group(window: int) -> CacheGroup:
    return CacheGroup(
        name=f"w{window}",
        kind="sliding" if window else "full",
        window=window,
        layers=1,
        kv_heads=1,
        key_dim=1,
        value_dim=1,
        dtype="f32",
        block_size=32,
        bytes_per_block=256,
    )


@given(st.lists(st.integers(0, 30), max_size=60))
def test_a_block_has_one_owner(actions):
    pool, held = BlockPool(8), []
    for action in actions:
        if action % 2 and held:
            pool.release(held.pop(action % len(held)))
        elif pool.free_count:
            held.append(pool.allocate())
        assert len(set(held)) == len(held)
        assert set(held) <= set(range(8))
        assert pool.free_count == 8 - len(held)
    for block in held:
        pool.release(block)
    assert sorted(pool.allocate() for _ in range(8)) == list(range(8))


def test_releasing_twice_and_taking_from_an_empty_pool_fail():
    pool = BlockPool(1)
    block = pool.allocate()
    with pytest.raises(IndexError):
        pool.allocate()
    pool.release(block)
    with pytest.raises(ValueError, match="twice"):
        pool.release(block)


@given(
    window=st.sampled_from([0, 1, 2, 31, 32, 33, 100]),
    length=st.integers(1, 400),
    chunks=st.lists(st.integers(1, 70), min_size=1, max_size=30),
)
def test_a_growing_sequence_never_needs_more_than_it_was_promised(window, length, chunks):
    cache = CacheManager((group(window),), (64,), max_query=70)
    hold, computed = cache.admit(length), 0
    promised = hold.promised[0]
    while computed < length:
        count = min(chunks[computed % len(chunks)], length - computed)
        cache.grow(hold, computed, computed + count)
        table = hold.tables[0].blocks
        oldest = max(0, computed - window + 1) if window else 0
        visible = {p // 32 for p in range(oldest, computed + count)}
        assert all(table[column] != FREED for column in visible)
        live = [block for block in table if block != FREED]
        assert len(live) == len(set(live)) == 64 - cache.pools[0].free_count
        assert len(live) <= promised == blocks_needed(group(window), length, 70)
        computed += count
    cache.release(hold)
    assert cache.pools[0].free_count == 64
    assert cache.can_admit(64 * 32)


requests = st.lists(
    st.tuples(st.integers(1, 250), st.integers(1, 70), st.integers(0, 12)), min_size=1, max_size=14
)


@settings(deadline=None, max_examples=60)
@given(requests=requests)
def test_random_traffic_is_scheduled_within_the_limits_and_all_of_it(toy, requests):
    """Sequences come at random steps and some leave early; every plan is checked as native code
    would need it (`check_inputs`), and at the end all blocks are back."""
    program = toy()
    cache = CacheManager(program.cache_groups, program.cache_blocks, program.limits.max_tokens)
    scheduler = Scheduler(program.limits, cache)
    todo = [(Sequence([1] * n, min(n + m, 320)), arrival) for n, m, arrival in requests]
    done, step = [], 0
    while len(done) < len(todo):
        for sequence, arrival in todo:
            if arrival == step:
                scheduler.add(sequence)
        plan = scheduler.schedule()
        assert step < 4000
        assert plan.tokens <= program.limits.max_tokens
        if plan.scheduled:
            check_inputs(step_inputs(plan, cache), program)
            assert len({id(item.sequence) for item in plan.scheduled}) == len(plan.scheduled)
        else:
            assert not scheduler.running
            assert not scheduler.waiting
        scheduler.advance(plan)
        for item in plan.scheduled:
            if item.wants_logits:
                item.sequence.tokens.append(1)
            if len(item.sequence.tokens) > item.sequence.max_length:
                scheduler.remove(item.sequence)
                done.append(item.sequence)
        step += 1
    assert [pool.free_count for pool in cache.pools] == list(program.cache_blocks)
    assert cache.can_admit(320)


def test_a_decoding_sequence_gets_its_token_in_every_step_of_a_long_prompt(toy):
    program = toy()
    cache = CacheManager(program.cache_groups, program.cache_blocks, program.limits.max_tokens)
    scheduler = Scheduler(program.limits, cache)
    decoding = Sequence([1] * 5, 100)
    scheduler.add(decoding)
    scheduler.advance(scheduler.schedule())
    scheduler.add(Sequence([2] * 200, 220))
    for _ in range(4):
        decoding.tokens.append(1)
        plan = scheduler.schedule()
        assert plan.tokens == program.limits.max_tokens
        assert [(item.count, item.wants_logits) for item in plan.scheduled] == [
            (1, True),
            (47, False),
        ]
        scheduler.advance(plan)


def test_a_sequence_waits_until_its_blocks_are_free(toy):
    program = toy(cache_blocks=(10, 10))
    cache = CacheManager(program.cache_groups, program.cache_blocks, program.limits.max_tokens)
    scheduler = Scheduler(program.limits, cache)
    first, second, third = (Sequence([1] * 10, n) for n in (160, 192, 32))
    for sequence in (first, second, third):
        scheduler.add(sequence)
    assert [item.sequence for item in scheduler.schedule().scheduled] == [first]
    assert list(scheduler.waiting) == [second, third]  # first come, first served
    scheduler.remove(first)
    assert [item.sequence for item in scheduler.schedule().scheduled] == [second, third]
