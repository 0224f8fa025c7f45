"""The engine with a toy program whose text shows every mistake in cache and batching."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.runtime.engine import scoring
from llmc.runtime.engine.engine import Engine, Request
from llmc.runtime.engine.sampling import SamplingParams
from llmc.runtime.errors import LlmcError


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
    assert [pool.free_count for pool in engine.cache.pools] == list(engine.program.cache_blocks)


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
    assert not engine.has_work
    assert {r.finish_reason for r in requests} == {"aborted"}
    assert [pool.free_count for pool in engine.cache.pools] == list(engine.program.cache_blocks)


def test_scoring_gives_every_row_and_leaves_the_cache_as_it_was(toy):
    engine = Engine(toy())
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, 97, 75)]
    got = scoring.logits(engine, tokens)
    want = np.stack([toy.logits(tokens[: n + 1]) for n in range(len(tokens))])
    np.testing.assert_array_equal(got, want)
    assert [pool.free_count for pool in engine.cache.pools] == list(engine.program.cache_blocks)
    with pytest.raises(LlmcError, match="E0204"):
        scoring.logits(engine, [1] * 321)
