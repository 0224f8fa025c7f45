"""The engine with a toy program whose text shows every mistake in cache and batching."""

import itertools
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.artifact.program import StepInputs, StepOutputs
from llmc.base.errors import LlmcError
from llmc.runtime.engine import scoring
from llmc.runtime.engine.engine import Engine, EngineOptions, Request
from llmc.runtime.engine.sampling.drawing import draw
from llmc.runtime.engine.sampling.parameters import SamplingParams

pytestmark = pytest.mark.fast


def run(engine: Engine, requests: list[Request]) -> None:
    for request in requests:
        engine.add(request)
    steps = 0
    while engine.has_work:
        engine.step()
        steps += 1
        assert steps < 5000


prompts = st.lists(st.integers(0, 96), min_size=1, max_size=150)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(prompts, st.integers(1, 60)), min_size=1, max_size=9))
def test_every_request_gets_the_text_it_would_get_alone(toy, requests):
    engine = Engine(toy())
    made = [Request(tuple(prompt), count) for prompt, count in requests]
    run(engine, made)
    for request in made:
        assert request.output == toy.greedy(list(request.prompt), request.max_tokens)
        assert request.finish_reason == "length"
    assert [pool.available for pool in engine.cache.pools] == list(engine.program.cache_blocks)


def test_requests_share_steps(toy):
    program = toy()
    run(Engine(program), [Request((n, n + 1), 10) for n in range(6)])
    assert len(program.steps) == 10
    assert len(program.steps[5].context_len) == 6


def test_a_long_prompt_is_computed_in_chunks(toy):
    program = toy()
    request = Request(tuple(range(90)), 1)
    run(Engine(program), [request])
    assert [len(step.token_ids) for step in program.steps] == [48, 42]
    assert [len(step.logits_rows) for step in program.steps] == [0, 1]


def test_same_seed_same_text_whatever_the_batch(toy):
    def request() -> Request:
        return Request((5, 6, 7), 40, SamplingParams(temperature=0.2, top_p=0.9, seed=11))

    alone, among = request(), request()
    run(Engine(toy()), [alone])
    others = [Request((n,), 70, SamplingParams(temperature=1.0, seed=n)) for n in range(5)]
    run(Engine(toy()), [*others[:3], among, *others[3:]])
    assert alone.output == among.output
    assert alone.output != toy.greedy([5, 6, 7], 40)
    assert len({tuple(other.output) for other in others}) == 5


def test_eos_ends_a_request_and_is_part_of_its_output(toy):
    text = toy.greedy([3], 20)
    request = Request((3,), 20, eos_ids=frozenset({text[7]}))
    run(Engine(toy()), [request])
    assert request.output == text[: text.index(text[7]) + 1]
    assert request.finish_reason == "stop"


def test_the_context_ends_a_request(toy):
    request = Request(tuple(n % 97 for n in range(100)), 1000)
    run(Engine(toy(), max_context=110), [request])
    assert len(request.output) == 11  # 110 computed tokens, and the one sampled after the last
    assert request.finish_reason == "length"


def test_a_prompt_as_long_as_the_context_gets_one_token(toy):
    request = Request((1,) * 320, 5)
    run(Engine(toy()), [request])
    assert request.output == toy.greedy([1] * 320, 1)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "id"),
    [
        ((1,) * 321, 1, "E0204"),
        ((), 1, "E0206"),
        ((97,), 1, "E0208"),
        ((-1,), 1, "E0208"),
        ((1,), 0, "E0205"),
    ],
)
def test_bad_requests_are_refused(toy, prompt, max_tokens, id):
    engine = Engine(toy())
    with pytest.raises(LlmcError, match=id):
        engine.add(Request(prompt, max_tokens))
    assert not engine.has_work


def test_a_request_that_never_fits_is_refused_and_others_queue(toy):
    engine = Engine(toy(cache_blocks=(4, 4)))
    with pytest.raises(LlmcError, match="E0603"):
        engine.add(Request((1,) * 100, 100))
    requests = [Request((n,) * 40, 40) for n in range(1, 5)]
    run(engine, requests)
    assert all(r.output == toy.greedy(list(r.prompt), 40) for r in requests)


def test_an_aborted_request_frees_its_cache(toy):
    engine = Engine(toy())
    requests = [Request((1, 2, 3), 100) for _ in range(8)]  # two of them have to wait
    for request in requests:
        engine.add(request)
    engine.step()
    for request in requests:
        engine.finish(request)
        engine.finish(request)
    assert [delta.finish_reason for delta in engine.step()][-8:] == ["aborted"] * 8
    assert not engine.has_work
    assert {r.finish_reason for r in requests} == {"aborted"}
    assert [pool.available for pool in engine.cache.pools] == list(engine.program.cache_blocks)


def test_scoring_gives_every_row_and_leaves_the_cache_as_it_was(toy):
    engine = Engine(toy())
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, 97, 75)]
    got = scoring.logits(engine, tokens)
    want = np.stack([toy.logits(tokens[: n + 1]) for n in range(len(tokens))])
    np.testing.assert_array_equal(got, want)
    assert [pool.available for pool in engine.cache.pools] == list(engine.program.cache_blocks)
    with pytest.raises(LlmcError, match="E0204"):
        scoring.logits(engine, [1] * 321)


traffic = st.lists(
    st.tuples(prompts, st.integers(1, 60), st.integers(0, 25), st.integers(0, 3)),
    min_size=1,
    max_size=10,
)


@settings(deadline=None, max_examples=40)
@given(
    traffic=traffic,
    blocks=st.sampled_from([(40, 24), (12, 8), (10, 7)]),
    prefix=st.integers(0, 100),
    cache=st.booleans(),
)
def test_shared_prefixes_and_preemption_change_no_text(toy, traffic, blocks, prefix, cache):
    """Requests that begin alike come while others run, on a cache that is often too small."""
    program = toy(cache_blocks=blocks)
    engine = Engine(program, options=EngineOptions(prefix_cache=cache))
    made = [
        (Request((*range(7, 7 + prefix // 2), *prompt), count, priority=priority), arrival)
        for prompt, count, arrival, priority in traffic
    ]
    step = 0
    while engine.has_work or any(arrival >= step for _, arrival in made):
        for request, arrival in made:
            if arrival == step:
                engine.add(request)
        engine.step()
        step += 1
        assert step < 5000
    for request, _ in made:
        assert request.output == toy.greedy(list(request.prompt), request.max_tokens)
    assert [pool.available for pool in engine.cache.pools] == list(blocks)


def test_a_prompt_that_was_computed_before_is_not_computed_again(toy):
    program = toy()
    engine = Engine(program)
    prompt = tuple(range(90))
    run(engine, [Request(prompt, 3)])
    computed = sum(len(step.token_ids) for step in program.steps)
    again = Request((*prompt, 95), 3)
    run(engine, [again])
    assert again.output == toy.greedy([*prompt, 95], 3)
    assert again.cached_tokens == 90
    assert sum(len(step.token_ids) for step in program.steps) - computed == 3
    alone = Request(prompt, 3, namespace="another tenant")
    run(engine, [alone])
    assert alone.cached_tokens == 0


def test_followers_wait_for_the_prompt_and_share_it(toy):
    program = toy()
    engine = Engine(program)
    prompt = tuple(range(80))
    first = Request(prompt, 10, SamplingParams(temperature=1.0, seed=1))
    others = [
        Request(prompt, 10, SamplingParams(temperature=1.0, seed=seed), follows=first)
        for seed in (2, 3, 4)
    ]
    run(engine, [first, *others])
    assert [other.cached_tokens for other in others] == [80] * 3  # forked, with its row of logits
    assert sum(len(step.token_ids) for step in program.steps) == 80 + 4 * 9
    alone = Request(prompt, 10, SamplingParams(temperature=1.0, seed=3))
    run(Engine(toy()), [alone])
    assert others[1].output == alone.output


@pytest.mark.parametrize("reason", ["aborted", "error"])
def test_followers_go_on_without_their_leader(toy, reason):
    engine = Engine(toy())
    first = Request((1, 2, 3), 10)
    other = Request((1, 2, 3), 10, follows=first)
    engine.add(first)
    engine.add(other)
    engine.finish(first, reason)
    run(engine, [])
    assert other.output == toy.greedy([1, 2, 3], 10)


def test_a_follower_may_leave_while_it_waits(toy):
    engine = Engine(toy())
    first = Request((1, 2, 3), 10)
    other = Request((1, 2, 3), 10, follows=first)
    engine.add(first)
    engine.add(other)
    engine.finish(other)
    run(engine, [])
    assert (first.finish_reason, other.finish_reason) == ("length", "aborted")


def test_a_deadline_ends_a_request_wherever_it_is(toy, monkeypatch):
    engine = Engine(toy(max_sequences=1))
    now = time.monotonic()
    running, waiting = (Request((n,), 50, deadline=now + 1000) for n in (1, 2))
    later = Request((3,), 5, deadline=now + 5000)
    for request in (running, waiting, later):
        engine.add(request)
    engine.step()
    monkeypatch.setattr("llmc.runtime.engine.engine.monotonic", lambda: now + 2000)
    run(engine, [])
    assert (running.finish_reason, waiting.finish_reason) == ("timeout", "timeout")
    assert len(running.output) == 1
    assert later.finish_reason == "length"


def test_deltas_tell_every_token_once(toy):
    engine = Engine(toy())
    requests = [Request((n,), 5 + n) for n in range(4)]
    told = {id(request): [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for delta in engine.step():
            told[id(delta.request)] += delta.token_ids
            assert (delta.finish_reason is None) == (delta.request.finish_reason is None)
    assert [told[id(request)] for request in requests] == [request.output for request in requests]


def test_timings_and_counters_follow_a_request(toy):
    engine = Engine(toy())
    request = Request((1, 2, 3), 4)
    run(engine, [request])
    timings = request.timings
    assert 0 < timings.arrived <= timings.scheduled <= timings.first_token
    assert timings.first_token <= timings.last_token <= timings.finished
    assert engine.counters.generated_tokens == 4
    assert engine.counters.requests_finished["length"] == 1


def test_a_program_of_uniform_steps_gives_the_same_text(toy):
    program = toy(uniform_query=True)
    requests = [Request(tuple(range(n, n + 5 + 20 * n)), 12) for n in range(5)]
    run(Engine(program), requests)
    for request in requests:
        assert request.output == toy.greedy(list(request.prompt), 12)
    for step in program.steps:
        counts = {b - a for a, b in itertools.pairwise(step.query_start)}
        assert counts == {1} or len(step.context_len) * max(counts) <= 48


def test_who_has_no_token_to_choose_ends_alone(toy):
    """Everything is forbidden behind the first token; the error's token is told to nobody."""
    engine = Engine(toy())
    first = toy.greedy([1, 2], 1)[0]
    nothing = SamplingParams(logprobs=0, bad_words=tuple((first, token) for token in range(97)))
    stuck, other = Request((1, 2), 9, nothing), Request((1, 2), 9)
    engine.add(stuck)
    engine.add(other)
    deltas = [delta for _ in range(12) for delta in engine.step()]
    assert (stuck.finish_reason, stuck.output) == ("error", [first])
    assert [one.token_id for one in stuck.logprobs] == [first]
    assert stuck.error is not None
    assert stuck.error.id == "LLMC-E0205"
    assert sum((d.token_ids for d in deltas if d.request is stuck), ()) == (first,)
    assert other.output == toy.greedy([1, 2], 9)
    assert [pool.used for pool in engine.cache.pools] == [0, 0]


options = st.fixed_dictionaries(
    {"seed": st.integers(0, 99)},
    optional={
        "temperature": st.sampled_from([0.05, 0.3, 1.0]),
        "top_k": st.sampled_from([1, 5]),
        "top_p": st.just(0.8),
        "repetition_penalty": st.just(1.3),
        "frequency_penalty": st.just(0.5),
        "logprobs": st.just(2),
        "min_tokens": st.just(4),
    },
)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(prompts, st.integers(1, 40), options), min_size=2, max_size=8))
def test_sampling_is_the_same_alone_and_among_others_that_preempt_it(toy, asked):
    def requests() -> list[Request]:
        return [
            Request((7, 8, 9, *prompt), count, SamplingParams(**chosen), frozenset({3}))
            for prompt, count, chosen in asked
        ]

    together, alone = requests(), requests()
    run(Engine(toy(cache_blocks=(10, 7))), together)
    for request in alone:
        run(Engine(toy()), [request])
    for one, other in zip(together, alone, strict=True):
        assert one.output == other.output
        assert one.logprobs == other.logprobs
        assert len(one.logprobs) in (0, len(one.output))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.3, "seed": 4, "top_p": 0.9, "logprobs": 2},
        {"repetition_penalty": 1.3, "bad_words": ((5,),), "prompt_logprobs": 1},
    ],
)
def test_a_program_that_draws_where_its_logits_are_copies_none(toy, params):
    class Device(toy):
        """Keeps its logits to itself: gives the argmax, and draws."""

        def step(self, inputs: StepInputs) -> StepOutputs:
            kept = super().step(inputs)

            def fetch() -> np.ndarray:
                raise AssertionError("the logits were copied")

            return StepOutputs(fetch, kept.argmax, partial(draw, kept))

    def requests() -> list[Request]:
        return [Request((n, 2, 3), 20, SamplingParams(**params)) for n in range(4)]

    made, want = requests(), requests()
    run(Engine(Device()), made)
    run(Engine(toy()), want)
    for one, other in zip(made, want, strict=True):
        assert one.output == other.output
        assert one.logprobs == other.logprobs
        assert one.prompt_logprobs == other.prompt_logprobs


@pytest.mark.parametrize("blocks", [(40, 24), (10, 7)])
def test_prompt_logprobs_are_those_of_every_token_but_the_first(toy, blocks):
    engine = Engine(toy(cache_blocks=blocks))
    texts = [[(n * k) % 97 for n in range(1, 120)] for k in (3, 5, 7)]
    made = [Request(tuple(text), 3, SamplingParams(prompt_logprobs=1)) for text in texts]
    run(engine, [Request(tuple(texts[0]), 2), *made])
    for text, request in zip(texts, made, strict=True):
        assert request.output == toy.greedy(text, 3)
        assert request.prompt_logprobs[0] is None
        assert [one and one.token_id for one in request.prompt_logprobs[1:]] == text[1:]
        for place in (1, 50, 118):
            row = toy.logits(text[:place]).astype(np.float64)
            expected = row - np.log(np.exp(row).sum())
            told = request.prompt_logprobs[place]
            assert told is not None
            assert told.logprob == pytest.approx(expected[text[place]], abs=1e-5)
            assert told.top[0][0] == int(row.argmax())
