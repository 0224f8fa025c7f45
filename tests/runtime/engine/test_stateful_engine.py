"""The engine with a program that keeps state: a text shows whatever it went on from wrongly."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.runtime.engine import scoring
from llmc.runtime.engine.engine import Engine, EngineOptions, Request
from llmc.runtime.engine.sampling.parameters import SamplingParams
from stateful_toy import KINDS, StatefulToy

pytestmark = pytest.mark.fast

TURN = 96
TURNS = frozenset({TURN})
kinds = pytest.mark.parametrize("kind", KINDS)


def run(engine: Engine, requests: list[Request]) -> None:
    for request in requests:
        engine.add(request)
    steps = 0
    while engine.has_work:
        engine.step()
        steps += 1
        assert steps < 5000
    check_cache(engine)


def check_cache(engine: Engine) -> None:
    """Nobody holds anything, and every slot is where it should be."""
    state = engine.cache.state
    assert state is not None
    assert (state.used, state.available) == (0, state.size)
    assert [pool.used for pool in engine.cache.pools] == [0] * len(engine.cache.pools)


def computed(program: StatefulToy) -> int:
    return sum(len(step.token_ids) for step in program.steps)


def text_of(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, TURN, count).tolist()


prompts = st.lists(st.integers(0, 96), min_size=1, max_size=110)
traffic = st.lists(
    st.tuples(prompts, st.integers(1, 50), st.integers(0, 25), st.integers(0, 3), st.booleans()),
    min_size=1,
    max_size=9,
)


@settings(deadline=None, max_examples=40)
@given(
    traffic=traffic,
    kind=st.sampled_from(list(KINDS)),
    blocks=st.sampled_from([(40, 24), (12, 8), (10, 7)]),
    slots=st.sampled_from([1, 2, 4, 7, 20]),
    prefix=st.integers(0, 140),
    cache=st.sampled_from([True, True, True, False]),
    leavers=st.sets(st.integers(0, 8)),
)
def test_every_request_gets_the_text_it_would_get_alone(
    traffic, kind, blocks, slots, prefix, cache, leavers
):
    """Requests that begin alike, some of them continuations of the one before, come while others
    run and some leave early; blocks and slots are often too few."""
    program = StatefulToy(blocks, slots=slots, groups=KINDS[kind])
    engine = Engine(program, options=EngineOptions(prefix_cache=cache), turn_ids=TURNS)
    made: list[tuple[Request, int]] = []
    for prompt, count, arrival, priority, follows in traffic:
        before = made[-1] if made and follows else None
        shared = (*text_of(prefix // 2), TURN) * (prefix > 0)
        request = Request(
            before[0].prompt if before else (*shared, *prompt),
            count,
            priority=priority,
            follows=before and before[0],
        )
        made.append((request, before[1] if before else arrival))
    step = 0
    while engine.has_work or any(arrival >= step for _, arrival in made):
        for index, (request, arrival) in enumerate(made):
            if arrival == step:
                engine.add(request)
            if index in leavers and arrival + 6 == step:
                engine.finish(request)
        engine.step()
        step += 1
        assert step < 5000
    for request, _ in made:
        want = program.continuation(request.prompt, len(request.output))
        assert request.output == want
        assert request.finish_reason == "aborted" or len(want) == request.max_tokens
    check_cache(engine)


@kinds
def test_a_second_turn_computes_what_is_new(kind):
    program = StatefulToy(groups=KINDS[kind])
    engine = Engine(program, turn_ids=TURNS)
    first = Request((*text_of(70), TURN, *text_of(60, 1), TURN, 5, 6), 20)
    run(engine, [first])
    before = computed(program)
    again = Request((*first.prompt, *first.output, TURN, *text_of(9, 2), TURN, 5, 6), 8)
    run(engine, [again])
    assert again.output == program.continuation(again.prompt, 8)
    # The first turn's last token was chosen, but never computed.
    assert again.cached_tokens == len(first.prompt) + len(first.output) - 1
    assert computed(program) - before == len(again.prompt) - again.cached_tokens + 7


@kinds
@settings(deadline=None, max_examples=8)
@given(length=st.integers(64, 200), others=st.integers(1, 3), more=st.integers(5, 60))
def test_nearly_all_of_a_prefix_is_reused_that_ends_with_a_turn(kind, length, others, more):
    program = StatefulToy(groups=KINDS[kind], slots=20)
    engine = Engine(program, turn_ids=TURNS)
    system = (*text_of(length - 1), TURN)
    run(engine, [Request((*system, *text_of(more, 9)), 4)])
    for number in range(others):
        request = Request((*system, *text_of(more, number)), 4)
        run(engine, [request])
        assert request.cached_tokens >= 0.95 * length
        assert request.output == program.continuation(request.prompt, 4)


@kinds
def test_the_same_prompt_again_and_an_edited_answer(kind):
    program = StatefulToy(groups=KINDS[kind])
    engine = Engine(program, turn_ids=TURNS)
    short, long = Request(tuple(text_of(100)), 9), Request(tuple(text_of(290, 1)), 9)
    run(engine, [short, long])
    edited = Request((*short.prompt, *text_of(20, 5)), 3)
    again = Request(long.prompt, 9)
    run(engine, [edited, again])
    assert (edited.cached_tokens, again.cached_tokens) == (100, 289)
    assert again.output == long.output
    assert edited.output == program.continuation(edited.prompt, 3)


@kinds
def test_what_was_preempted_goes_on_from_its_own_slot(kind):
    if not KINDS[kind]:
        pytest.skip("without blocks nobody has to give way")
    program = StatefulToy((8, 6), groups=KINDS[kind])
    engine = Engine(program)
    requests = [Request(tuple(text_of(70, n)), 60) for n in range(3)]
    run(engine, requests)
    for request in requests:
        assert request.output == program.continuation(request.prompt, 60)
    state = engine.cache.state
    assert state is not None
    if engine.counters.preemptions:
        assert state.counts.used > 0


@kinds
def test_continuations_are_forked(kind):
    program = StatefulToy(groups=KINDS[kind])
    engine = Engine(program)
    prompt = tuple(text_of(80))

    def request(seed: int | None, follows: Request | None = None) -> Request:
        params = SamplingParams() if seed is None else SamplingParams(temperature=1.0, seed=seed)
        return Request(prompt, 10, params, follows=follows)

    first = request(1)
    others = [request(seed, first) for seed in (2, 3, None)]
    run(engine, [first, *others])
    assert computed(program) == 80 + 4 * 9
    assert [other.cached_tokens for other in others] == [80] * 3
    for made, seed in zip((first, *others), (1, 2, 3, None), strict=True):
        alone = request(seed)
        run(Engine(StatefulToy(groups=KINDS[kind])), [alone])
        assert made.output == alone.output


def test_who_cannot_be_forked_waits_for_a_place():
    program = StatefulToy(slots=2, max_sequences=3)
    engine = Engine(program)
    first = Request(tuple(text_of(80)), 10)
    others = [Request(first.prompt, 10, follows=first) for _ in range(4)]
    run(engine, [first, *others])
    assert {tuple(other.output) for other in others} == {tuple(first.output)}


def test_slots_limit_who_runs():
    program = StatefulToy(slots=2, groups=())
    engine = Engine(program)
    requests = [Request((n, n, n), 12) for n in range(5)]
    run(engine, requests)
    assert max(len(step.context_len) for step in program.steps) == 2
    for request in requests:
        assert request.output == program.continuation(request.prompt, 12)


@kinds
def test_scoring_between_steps_spoils_nobody(kind):
    """Snapshots that were asked for are made before its first step takes their slots."""
    program = StatefulToy(groups=KINDS[kind], slots=3)
    engine = Engine(program, turn_ids=TURNS)
    request = Request((*text_of(70), TURN, *text_of(90, 1)), 12)
    engine.add(request)
    tokens = text_of(75, 3)
    want = np.stack([program.row_of(tokens[: n + 1], program.cache_groups) for n in range(75)])
    while engine.has_work:
        engine.step()
        pieces = scoring.iter_logits(engine, tokens)
        first, rows = next(pieces)
        np.testing.assert_array_equal(rows, want[first : first + len(rows)])
        engine.step()
        for first, rows in pieces:
            np.testing.assert_array_equal(rows, want[first : first + len(rows)])
    assert request.output == program.continuation(request.prompt, 12)
    check_cache(engine)


@kinds
def test_prompt_logprobs_look_at_every_token(kind):
    program = StatefulToy(groups=KINDS[kind])
    engine = Engine(program, turn_ids=TURNS)
    prompt = (*text_of(70), TURN, *text_of(30, 1))
    run(engine, [Request(prompt, 2)])
    request = Request(prompt, 2, SamplingParams(prompt_logprobs=0))
    run(engine, [request])
    assert request.cached_tokens == 0
    assert len(request.prompt_logprobs) == len(prompt)
    assert request.output == program.continuation(prompt, 2)


def test_snapshots_are_counted():
    program = StatefulToy(groups=(), slots=2)
    engine = Engine(program, turn_ids=TURNS)
    for seed in range(3):
        run(engine, [Request((*text_of(70, seed), TURN, *text_of(20, seed)), 3)])
    gauges, counts = engine.gauges(), engine.counters.snapshots
    assert (gauges.state_used, gauges.state_snapshots, gauges.state_total) == (0, 2, 2)
    assert counts.taken - counts.evicted == 2
    assert counts.used == 0
    assert engine.counters.snapshot(gauges)["snapshots"]["taken"] == counts.taken


class Guesses:
    def propose(self, sequences, most):
        return [[1] * count for count in most]

    def finished(self, sequence):
        """Keeps nothing."""


def test_nothing_is_drafted_and_that_is_said(caplog):
    program = StatefulToy()
    with caplog.at_level(logging.WARNING, "llmc.engine"):
        engine = Engine(program, proposer=Guesses())
    assert "nothing is drafted" in caplog.text
    request = Request((1, 2, 3), 20)
    run(engine, [request])
    assert request.output == program.continuation((1, 2, 3), 20)


def test_a_request_that_never_fits_is_refused():
    with pytest.raises(LlmcError, match="E0603"):
        Engine(StatefulToy((4, 4))).add(Request((1,) * 100, 100))
