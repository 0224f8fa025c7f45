"""Tokens of a batch: seeds, penalties, forbidden ids, log-probabilities, and who may be argmax."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.artifact.program import StepOutputs
from llmc.base.errors import LlmcError
from llmc.runtime.engine.request import Request
from llmc.runtime.engine.sampling.parameters import SamplingParams, check_params
from llmc.runtime.engine.sampling.request_state import mix, uniform
from llmc.runtime.engine.sampling.sampler import Sampler, sampling_state

pytestmark = pytest.mark.fast

VOCAB = 211
EOS = 7


def ask(prompt: tuple[int, ...] = (1, 2), eos: int = EOS, **params: Any) -> Request:
    return Request(prompt, 100, SamplingParams(**params), frozenset([eos]))


def row_of(tokens: list[int], seed: int = 0) -> np.ndarray:
    """Logits that follow from what came before, as a model's do."""
    return np.random.default_rng([seed, *tokens]).normal(0, 2, VOCAB).astype(np.float32)


def outputs_of(rows: list[np.ndarray]) -> StepOutputs:
    return StepOutputs.of(np.stack(rows))


def no_logits() -> Any:
    raise AssertionError("nobody may ask for the logits")


def generate(requests: list[Request], count: int) -> list[list[int]]:
    """Continues all requests together by `count` tokens, each with its own logits."""
    sampler, states = Sampler(), [sampling_state(request) for request in requests]
    for _ in range(count):
        sampler.prepare(states)
        rows = [row_of([*request.prompt, *request.output]) for request in requests]
        tokens = sampler.sample(states, outputs_of(rows))
        for request, token in zip(requests, tokens, strict=True):
            request.output.append(token)
    return [request.output for request in requests]


def test_only_plain_argmax_has_no_state():
    assert sampling_state(ask()) is None
    some: tuple[dict[str, Any], ...] = (
        {"temperature": 0.1},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"logit_bias": {3: 1.0}},
        {"bad_words": ((3,),)},
        {"min_tokens": 1},
        {"logprobs": 0},
    )
    for params in some:
        assert sampling_state(ask(**params)) is not None


def test_greedy_takes_the_programs_argmax():
    outputs = StepOutputs(no_logits, [4, 9])
    assert Sampler().sample([None, None], outputs) == [4, 9]


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_seed_gives_its_tokens_whatever_the_batch(data):
    options = st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**64 - 1),
            "temperature": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
            "top_k": st.sampled_from([0, 5]),
            "top_p": st.sampled_from([1.0, 0.8]),
            "repetition_penalty": st.sampled_from([1.0, 1.3]),
            "frequency_penalty": st.sampled_from([0.0, 0.7]),
            "logprobs": st.sampled_from([None, 2]),
        }
    )
    asked = data.draw(st.lists(options, min_size=1, max_size=5))
    alone = [generate([ask((i,), **params)], 12)[0] for i, params in enumerate(asked)]
    assert generate([ask((i,), **params) for i, params in enumerate(asked)], 12) == alone


def test_a_new_state_goes_on_where_the_old_one_stopped():
    """As after preemption: everything follows from the request and its output."""
    params: dict[str, Any] = {
        "temperature": 1.5,
        "seed": 3,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.2,
        "bad_words": ((4, 5), (6,)),
    }
    whole = generate([ask(**params)], 20)[0]
    request = ask(**params)
    generate([request], 9)
    assert generate([request], 11)[0] == whole


def test_seeds_differ_and_no_seed_is_random():
    def tokens(seed):
        return tuple(generate([ask(temperature=2.0, seed=seed)], 20)[0])

    assert len({tokens(seed) for seed in range(50)}) == 50
    assert tokens(1) == tokens(1)
    assert tokens(None) != tokens(None)


def test_random_numbers_are_splitmix64():
    # The first outputs of the reference implementation for the state 1234567.
    want = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    got = [mix((1234567 + (i + 1) * 0x9E3779B97F4A7C15) % 2**64) for i in range(4)]
    assert got == want
    drawn = np.array([uniform(mix(seed), i) for seed in range(100) for i in range(500)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.bincount((drawn * 100).astype(int), minlength=100)
    assert ((counts - 500) ** 2 / 500).sum() < 148.2  # 99.9 % point of 99 degrees of freedom
    first = np.array([uniform(mix(seed), 0) for seed in range(2000)])
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.08


def one(request: Request, logits: list[float]) -> int:
    row = np.full(VOCAB, -9, np.float32)
    row[: len(logits)] = logits
    state = sampling_state(request)
    assert state is not None
    token = Sampler().sample([state], outputs_of([row]))[0]
    assert state.error is None
    return token


def test_penalties_count_what_they_should():
    """Repetition counts prompt and output; presence and frequency the output only."""
    logits = [3.0, 2.0, 1.5]
    repetition = ask((0,), repetition_penalty=2.5)
    assert one(repetition, logits) == 1
    repetition.output = [1]
    assert one(repetition, logits) == 2  # 1.2, 0.8, 1.5
    presence = ask((0,), presence_penalty=1.2)
    assert one(presence, logits) == 0
    presence.output = [0, 0, 0]
    assert one(presence, logits) == 1  # 1.8: three times count as once
    frequency = ask((0,), frequency_penalty=0.4)
    frequency.output = [0, 0]
    assert one(frequency, logits) == 0
    frequency.output = [0, 0, 0]
    assert one(frequency, logits) == 1  # 1.8
    assert one(ask(logit_bias={2: 5.0, 0: -1.0}), logits) == 2


def test_bad_words_are_sequences():
    logits = [1.0, 5.0, 4.0, 3.0]
    assert one(ask(bad_words=((1,),)), logits) == 2
    for prompt, output, token in [
        ((9, 8), [], 2),
        ((9,), [8], 2),
        ((5,), [9, 8], 2),
        ((8, 9), [], 1),
        ((8,), [], 1),
    ]:
        request = ask(prompt, bad_words=((9, 8, 1), (8, 8, 2)))
        request.output = output
        assert one(request, logits) == token


def test_no_end_before_min_tokens():
    request = ask(min_tokens=2, eos=1)
    for output, token in [([], 2), ([2], 2), ([2, 2], 1)]:
        request.output = output
        assert one(request, [0, 5, 4]) == token


def test_what_cannot_be_chosen_from_is_an_error():
    everything = ask(bad_words=tuple((i,) for i in range(VOCAB)))
    for request, row, identifier in [
        (everything, row_of([]), "LLMC-E0205"),
        (ask(temperature=1.0), np.full(VOCAB, np.nan, np.float32), "LLMC-E0102"),
    ]:
        state, neighbour = sampling_state(request), sampling_state(ask(logprobs=0))
        tokens = Sampler().sample([state, neighbour], outputs_of([row, row_of([])]))
        assert state is not None
        assert state.error is not None
        assert state.error.id == identifier
        assert tokens[1] == row_of([]).argmax()
        assert neighbour is not None
        assert neighbour.error is None


def test_ids_outside_the_vocabulary_are_refused():
    check_params(SamplingParams(logit_bias={VOCAB - 1: 1.0}, bad_words=((VOCAB - 1,),)), VOCAB)
    for params in (
        SamplingParams(logit_bias={VOCAB: 1.0}),
        SamplingParams(bad_words=((1, VOCAB),)),
        SamplingParams(bad_words=((-1,),)),
    ):
        with pytest.raises(LlmcError) as caught:
            check_params(params, VOCAB)
        assert caught.value.id == "LLMC-E0208"


def test_logprobs_are_those_of_the_model():
    request = ask(temperature=0.7, seed=1, logprobs=3, repetition_penalty=1.5,
                  logit_bias={5: 3.0}, bad_words=((9,),))  # fmt: skip
    row = row_of([1])
    state = sampling_state(request)
    assert state is not None
    token = Sampler().sample([state], outputs_of([row.copy()]))[0]
    probabilities = np.exp(row.astype(np.float64)) / np.exp(row.astype(np.float64)).sum()
    got = state.last_logprob
    assert got is not None
    assert got.token_id == token
    assert got.logprob == pytest.approx(np.log(probabilities[token]), abs=1e-5)
    best = np.argsort(-row)[:3]
    assert [i for i, _ in got.top] == best.tolist()
    np.testing.assert_allclose([p for _, p in got.top], np.log(probabilities[best]), atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": 2},
        {"typical_p": 0},
        {"repetition_penalty": 0},
        {"presence_penalty": 2.1},
        {"frequency_penalty": -3},
        {"logit_bias": {1: 101}},
        {"bad_words": ((),)},
        {"min_tokens": -1},
        {"logprobs": 21},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_parameters_out_of_range(bad):
    with pytest.raises(LlmcError) as caught:
        SamplingParams(**bad)
    assert caught.value.id == "LLMC-E0205"


def test_greedy_choosing_needs_no_numpy():
    code = """
import sys
from llmc.runtime.engine.request import Request
from llmc.runtime.engine.sampling.sampler import Sampler, sampling_state
from llmc.artifact.program import StepOutputs
def no_logits(): raise AssertionError
state = sampling_state(Request((1,), 3))
sampler = Sampler()
sampler.prepare([state])
assert sampler.sample([state], StepOutputs(no_logits, [4])) == [4]
assert not {"numpy", "llguidance", "concurrent.futures"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
