"""The scheduler under random traffic: limits kept, blocks used once, everybody served."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.artifact.program import check_inputs
from llmc.runtime.engine.cache.manager import CacheManager
from llmc.runtime.engine.schedule import waiting_queue as admission
from llmc.runtime.engine.schedule.scheduler import Scheduler
from llmc.runtime.engine.schedule.sequence import Sequence
from llmc.runtime.engine.schedule.step_inputs import step_inputs
from llmc.runtime.engine.schedule.step_shape import MixedSteps, UniformSteps

pytestmark = pytest.mark.fast


def scheduler_of(program, shape=None, *, prefixes: bool = True) -> Scheduler[Sequence]:
    limits = program.limits
    cache = CacheManager(
        program.cache_groups, program.cache_blocks, limits.max_tokens, prefixes=prefixes
    )
    return Scheduler(limits, cache, shape or MixedSteps(None))


requests = st.lists(
    st.tuples(st.integers(1, 250), st.integers(1, 70), st.integers(0, 12), st.integers(-2, 2)),
    min_size=1,
    max_size=14,
)


@settings(deadline=None, max_examples=60)
@given(
    requests=requests,
    blocks=st.sampled_from([(40, 24), (11, 9), (10, 6)]),
    uniform=st.booleans(),
    prefixes=st.booleans(),
    leavers=st.sets(st.integers(0, 13)),
)
def test_random_traffic_is_scheduled_within_the_limits_and_all_of_it(
    toy, requests, blocks, uniform, prefixes, leavers
):
    """Sequences come at random steps and some leave early; pools are often too small for all who
    run. Every plan is checked as native code would need it, and at the end all blocks are back."""
    program = toy(cache_blocks=blocks)
    shape = UniformSteps() if uniform else MixedSteps(None)
    scheduler = scheduler_of(program, shape, prefixes=prefixes)
    todo = [
        (Sequence([n % 7] * n, min(n + m, 320), priority), arrival)
        for n, m, arrival, priority in requests
    ]
    left, step = [sequence for sequence, _ in todo], 0
    while left:
        for index, (sequence, arrival) in enumerate(todo):
            if arrival == step:
                scheduler.add(sequence)
            if index in leavers and arrival + 5 == step and sequence in left:
                scheduler.remove(sequence)
                left.remove(sequence)
        plan = scheduler.schedule()
        assert step < 4000
        check_plan(plan, scheduler, uniform)
        if plan.sequences:
            check_inputs(step_inputs(plan, 2), program)
        else:
            assert not scheduler.running
            assert not scheduler.waiting
        scheduler.advance(plan)
        for sequence, rows in zip(plan.sequences, plan.rows, strict=True):
            if rows:
                sequence.tokens.append(1)
            if len(sequence.tokens) > sequence.max_length:
                scheduler.remove(sequence)
                left.remove(sequence)
        step += 1
    assert [pool.available for pool in scheduler.cache.pools] == list(program.cache_blocks)


def check_plan(plan, scheduler, uniform) -> None:
    limits = scheduler.limits
    assert plan.tokens <= limits.max_tokens
    assert sum(plan.rows) <= limits.max_logits_rows
    assert len({id(sequence) for sequence in plan.sequences}) == len(plan.sequences)
    if uniform and plan.sequences:
        assert len(plan.sequences) * max(plan.counts) <= limits.max_tokens
    for group in range(2):
        written = [
            sequence.hold.tables[group][column]
            for sequence, count in zip(plan.sequences, plan.counts, strict=True)
            for column in range(sequence.computed // 32, (sequence.computed + count - 1) // 32 + 1)
        ]
        assert len(set(written)) == len(written), "two sequences write the same block"


def test_a_decoding_sequence_gets_its_token_in_every_step_of_a_long_prompt(toy):
    scheduler = scheduler_of(toy())
    decoding = Sequence([1] * 5, 100)
    scheduler.add(decoding)
    scheduler.advance(scheduler.schedule())
    scheduler.add(Sequence([2] * 200, 220))
    for _ in range(4):
        decoding.tokens.append(1)
        plan = scheduler.schedule()
        assert (plan.counts, plan.rows) == ((1, 47), (1, 0))
        scheduler.advance(plan)


def test_a_sequence_waits_until_there_are_blocks_for_its_prompt(toy):
    scheduler = scheduler_of(toy(cache_blocks=(10, 10)))
    first, second, third = (Sequence([n] * 32 * n, 320) for n in (5, 6, 1))
    for sequence in (first, second, third):
        scheduler.add(sequence)
    assert scheduler.schedule().sequences == (first,)
    assert len(scheduler.waiting) == 2  # first come, first served: the short one waits, too
    scheduler.remove(first)
    assert scheduler.schedule().sequences == (second,)


def test_the_newest_gives_way_and_comes_back(toy):
    scheduler = scheduler_of(toy(cache_blocks=(4, 4)))
    old, new = Sequence([1] * 40, 128), Sequence([2] * 20, 128)
    preempted = []
    scheduler.add(old)
    scheduler.add(new)
    while scheduler.running or scheduler.waiting:
        plan = scheduler.schedule()
        preempted.append(plan.preempted)
        scheduler.advance(plan)
        for sequence in plan.sequences:
            if sequence.uncomputed == 0:
                sequence.tokens.append(3)
            if len(sequence.tokens) > sequence.max_length:
                scheduler.remove(sequence)
        if len(old.tokens) <= 128:
            assert old.hold is not None, "the oldest is never preempted"
    assert sum(preempted) == 1
    assert len(new.tokens) == 129


def test_uniform_steps_take_turns_and_bring_equal_numbers(toy):
    scheduler = scheduler_of(toy(), UniformSteps(), prefixes=False)
    decoding = Sequence([1], 50)
    scheduler.add(decoding)
    scheduler.advance(scheduler.schedule())
    prompts = [Sequence([n] * 60, 70) for n in (2, 3, 4)]
    for sequence in prompts:
        scheduler.add(sequence)
    seen = []
    for _ in range(6):
        if decoding.uncomputed == 0:
            decoding.tokens.append(1)
        plan = scheduler.schedule()
        seen.append(plan.counts)
        scheduler.advance(plan)
    assert seen[0] in [(1,), (16, 16, 16)]
    assert sorted(set(seen)) == [(1,), (16, 16, 16)]
    assert seen[0] != seen[1] != seen[2]


def having(*uncomputed: int) -> list[Sequence]:
    """Sequences of which so many tokens are uncomputed; those with one decode."""
    return [Sequence([5] * (3 + n), 999, computed=3) for n in uncomputed]


def test_prompts_beside_decoding_take_what_the_slack_allows():
    shape, eight = MixedSteps(3.0), [1] * 8
    assert shape.counts(having(1, 500), 512) == [1, 16]  # nothing measured yet
    assert shape.counts(having(500, 400), 512) == [500, 12]  # nobody decodes
    for _ in range(50):
        shape.observe(8, 0, 0.010)
        shape.observe(8, 32, 0.010 + 32 * 0.0005)
    assert shape.counts(having(*eight, 500), 512)[-1] in (
        39,
        40,
        41,
    )  # (3 - 1) * 10 ms at 0.5 ms each
    assert sum(shape.counts(having(*eight, *[20] * 16), 512)) in range(
        8 + 152, 8 + 168
    )  # more wait
    for _ in range(200):
        shape.observe(8, 0, 0.010)
        shape.observe(8, 32, 0.010 + 32 * 0.01)
    assert shape.counts(having(*eight, 500), 512)[-1] == 4  # prompts always advance
    assert MixedSteps(None).counts(having(1, 500), 512) == [1, 500]


def test_more_decoding_sequences_than_tokens_in_a_step():
    assert MixedSteps(None).counts(having(*[1] * 5), 3) == [1, 1, 1, 0, 0]
    assert UniformSteps().counts(having(*[1] * 5), 3) == [1, 1, 1, 0, 0]


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(admission, "monotonic", lambda: Clock.now)
    return Clock


def order(queue) -> list[Sequence]:
    result = []
    while (head := queue.peek()) is not None:
        queue.remove(head)
        result.append(head)
    return result


def test_priorities_overtake_but_nobody_waits_forever(clock):
    queue = admission.WaitingQueue()
    low = Sequence([1], 1, priority=1)
    queue.push(low)
    high = []
    for _ in range(200):  # one a second
        clock.now += 1
        high.append(Sequence([1], 1, client="another"[: len(high) % 7]))
        queue.push(high[-1])
    place = order(queue).index(low)
    assert place <= admission.PRIORITY_SECONDS
    assert place > 1


def test_a_client_with_a_long_queue_lets_others_in_between(clock):
    queue = admission.WaitingQueue()
    many = [Sequence([1], 1, client="many") for _ in range(50)]
    for sequence in many:
        queue.push(sequence)
    clock.now += 1
    one = Sequence([1], 1, client="one")
    queue.push(one)
    served = order(queue)
    assert served.index(one) == 3
    assert [s for s in served if s is not one] == many


def test_a_preempted_sequence_keeps_its_place(clock):
    queue = admission.WaitingQueue()
    first, second = Sequence([1], 1), Sequence([1], 1)
    queue.push(first)
    queue.push(second)
    queue.remove(first)
    clock.now += 100
    queue.push(first)
    assert order(queue) == [first, second]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=300))
def test_removals_anywhere_leave_the_others_in_order(actions):
    queue, kept = admission.WaitingQueue(), []
    for is_push, number in actions:
        if is_push or not kept:
            sequence = Sequence([1], 1, priority=number % 3, client=str(number % 4))
            queue.push(sequence)
            kept.append(sequence)
        else:
            queue.remove(kept.pop(number % len(kept)))
        assert len(queue) == len(kept)
    assert order(queue) == sorted(kept, key=lambda s: s.key)
