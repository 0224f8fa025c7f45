"""A program that works by itself gives every request the same as one that computes when called."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from late_toy import LateToy
from llmc.artifact.program import check_inputs
from llmc.base.errors import LlmcError
from llmc.runtime.engine import scoring
from llmc.runtime.engine.engine import Engine
from llmc.runtime.engine.request import Delta, Request
from llmc.runtime.engine.sampling.grammar import Grammar, GrammarCompiler
from llmc.runtime.engine.sampling.parameters import SamplingParams
from llmc.runtime.text.output import OutputText
from llmc.runtime.text.tokenizer import Tokenizer
from toy_program import VOCAB, Toy

pytestmark = pytest.mark.fast

Arrivals = Sequence[tuple[Request, int]]


class Told:
    """What the readers of requests were told."""

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.text: dict[int, str] = {}
        self.reasons: dict[int, str] = {}

    def add(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            key = id(delta.request)
            assert key not in self.reasons, "news after the end"
            self.ids.setdefault(key, []).extend(delta.token_ids)
            self.text[key] = self.text.get(key, "") + delta.text
            if delta.finish_reason is not None:
                self.reasons[key] = delta.finish_reason


def run(
    engine: Engine, arrivals: Arrivals, between: Callable[[int], None] = lambda step: None
) -> Told:
    """Runs requests that come before these steps, and checks that all of it is told."""
    told, step = Told(), 0
    while engine.has_work or any(arrival >= step for _, arrival in arrivals):
        for request, arrival in arrivals:
            if arrival == step:
                engine.add(request)
        between(step)
        told.add(engine.step())
        step += 1
        assert step < 5000
    for request, _ in arrivals:
        assert told.ids[id(request)] == request.output
        assert told.reasons[id(request)] == request.finish_reason
        assert all(0 <= token < VOCAB for token in request.output)
    return told


def check_cache(engine: Engine, program: Toy) -> None:
    """No block is lost, and the prefix tree names blocks that hold what it says."""
    if isinstance(program, LateToy):
        program.finish()
    assert [pool.available for pool in engine.cache.pools] == list(program.cache_blocks)
    nodes = list(engine.cache.index.root("").children.values())
    while nodes:
        node = nodes.pop()
        nodes += node.children.values()
        for cache, block in zip(program.cache, node.blocks, strict=True):
            if block >= 0:
                assert cache[block, : len(node.tokens)].tolist() == list(node.tokens)


def results(request: Request, told: Told) -> tuple[Any, ...]:
    error = request.error and request.error.id
    text = told.text[id(request)]
    ends = request.finish_reason, request.stop_reason, error
    return request.output, text, *ends, request.logprobs, request.prompt_logprobs


class Guesses:
    """A proposer that knows what comes, and is right half of the time."""

    def __init__(self, texts: dict[int, list[int]]) -> None:
        self.texts, self.random = texts, random.Random(0)

    def propose(self, sequences: Sequence[Any], most: Sequence[int]) -> list[list[int]]:
        return [self._of(one.request, count) for one, count in zip(sequences, most, strict=True)]

    def _of(self, request: Request, most: int) -> list[int]:
        right = self.texts[id(request)][len(request.output) :][:most]
        return [token if self.random.random() < 0.7 else 0 for token in right]

    def finished(self, sequence: Any) -> None:
        assert min(sequence.tokens) >= 0


@pytest.fixture(scope="module")
def tokenizer(words) -> Tokenizer:
    return Tokenizer(words.json)


@pytest.fixture(scope="module")
def grammars(words) -> list[Any]:
    compiler = GrammarCompiler(words.json, VOCAB, [1])
    patterns = "(he|hello|wor|ld| )*", "[a-z]{3,9}"
    return [compiler.compile(Grammar.regex(pattern)) for pattern in patterns]


prompts = st.lists(st.integers(0, 96), min_size=1, max_size=90)
plain = {
    "temperature": st.sampled_from([0.05, 0.3, 1.0]),
    "top_k": st.sampled_from([1, 5]),
    "top_p": st.just(0.8),
    "typical_p": st.just(0.9),
    "logit_bias": st.just({5: 0.4, 9: 0.4}),
    "logprobs": st.just(2),
    "min_tokens": st.just(4),
}
awkward = {
    "repetition_penalty": st.just(1.3),
    "frequency_penalty": st.just(0.5),
    "bad_words": st.just(((5,), (9, 9), (11, 5))),
    "prompt_logprobs": st.just(1),
}
seeds = {"seed": st.integers(0, 99)}
plain_params = st.fixed_dictionaries(seeds, optional=plain)
any_params = st.fixed_dictionaries(seeds, optional={**plain, **awkward})


def asked(params: Any, grammars: list[int | None]) -> Any:
    return st.fixed_dictionaries(
        {
            "prompt": prompts,
            "max_tokens": st.integers(1, 50),
            "params": params,
            "arrival": st.integers(0, 15),
            "stop": st.sampled_from([None, (), ("e",), ("lo", "wo"), ("hello", "</s>")]),
            "grammar": st.sampled_from(grammars),
            "eos": st.frozensets(st.integers(0, 96), max_size=4),
            "follows": st.booleans(),
        }
    )


def made(traffic: Any, tokenizer: Any, grammars: Any, prefix: int) -> list[tuple[Request, int]]:
    found: list[tuple[Request, int]] = []
    for one in traffic:
        grammar = None if one["grammar"] is None else grammars[one["grammar"]]
        before = found[-1] if found and one["follows"] else None
        request = Request(
            before[0].prompt if before else (*range(7, 7 + prefix), *one["prompt"]),
            one["max_tokens"],
            SamplingParams(**one["params"]),
            frozenset({1}) if grammar else one["eos"],
            text=None if one["stop"] is None else OutputText(tokenizer, one["stop"]),
            grammar=grammar,
            follows=before and before[0],
        )
        found.append((request, before[1] if before else one["arrival"]))
    return found


small = st.sampled_from([(40, 24), (12, 8), (10, 7)])


@settings(deadline=None, max_examples=60)
@given(
    traffic=st.lists(
        st.one_of(asked(plain_params, [None]), asked(any_params, [None, None, 0, 1])),
        min_size=1,
        max_size=8,
    ),
    blocks=small,
    prefix=st.integers(0, 60),
    drafts=st.sampled_from([False, False, False, True]),
    draws_typical=st.booleans(),
)
def test_all_get_the_same(
    tokenizer, grammars, traffic, blocks, prefix, drafts, draws_typical
) -> None:
    """Requests of all kinds, on a cache that is often too small, sharing beginnings."""
    first = made(traffic, tokenizer, grammars, prefix)
    told = run(Engine(Toy(blocks, max_logits_rows=9)), first)
    want = [results(request, told) for request, _ in first]
    again = made(traffic, tokenizer, grammars, prefix)
    texts = {id(b): a.output for (a, _), (b, _) in zip(first, again, strict=True)}
    program = LateToy(blocks, draws_typical=draws_typical, max_logits_rows=9)
    engine = Engine(program, proposer=Guesses(texts) if drafts else None)
    told = run(engine, again)
    assert [results(request, told) for request, _ in again] == want
    check_cache(engine, program)


@settings(deadline=None, max_examples=60)
@given(
    traffic=st.lists(asked(plain_params, [None]), min_size=1, max_size=10),
    blocks=small,
    prefix=st.integers(0, 60),
    uniform=st.booleans(),
)
def test_all_get_the_same_with_a_step_ahead(tokenizer, traffic, blocks, prefix, uniform) -> None:
    """Nobody needs the host: every step but the first ones is submitted while another runs."""
    limits = {"uniform_query": uniform}
    first, again = (made(traffic, tokenizer, [], prefix) for _ in range(2))
    told = run(Engine(Toy(blocks, **limits)), first)
    want = [results(request, told) for request, _ in first]
    program = LateToy(blocks, **limits)
    engine = Engine(program)
    told = run(engine, again)
    assert [results(request, told) for request, _ in again] == want
    check_cache(engine, program)


@settings(deadline=None, max_examples=60)
@given(
    traffic=st.lists(
        st.one_of(asked(plain_params, [None]), asked(any_params, [None, None, 0])),
        min_size=1,
        max_size=8,
    ),
    ends=st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=8, max_size=8),
    blocks=small,
    prefix=st.integers(0, 60),
)
def test_who_leaves_early_has_what_it_would_have(
    tokenizer, grammars, traffic, ends, blocks, prefix
) -> None:
    """Cancellations and deadlines at any time: what came before is right, and the others stay."""
    whole, cut = (made(traffic, tokenizer, grammars, prefix) for _ in range(2))
    run(Engine(Toy((80, 60), max_logits_rows=9)), whole)
    program = LateToy(blocks, max_logits_rows=9)
    engine = Engine(program)

    def leave(step: int) -> None:
        for (request, arrival), (end, by_clock) in zip(cut, ends, strict=False):
            if step == end + arrival and by_clock:
                request.deadline = 1.0
                engine._deadlines.insert(0, (1.0, id(request)))
            elif step == end + arrival:
                engine.finish(request)

    run(engine, cut, leave)
    for (request, _), (full, _) in zip(cut, whole, strict=True):
        if request.finish_reason in ("aborted", "timeout"):
            assert request.output == full.output[: len(request.output)]
            assert request.logprobs == full.logprobs[: len(request.logprobs)]
        else:
            assert request.output == full.output
            assert request.finish_reason == full.finish_reason
    check_cache(engine, program)


def test_a_step_is_submitted_while_the_one_before_runs() -> None:
    program = LateToy()
    sampled = SamplingParams(temperature=0.7, seed=3, logprobs=1)
    run(
        Engine(program),
        [(Request((n, 5), 30, sampled if n % 2 else SamplingParams()), 0) for n in range(6)],
    )
    assert program.under_way == [1] + [2] * 29
    assert len(program.steps) == 30  # nobody is computed in vain whose end is certain
    assert [len(step.context_len) for step in program.steps] == [6] * 30


def test_one_that_ends_unforeseen_costs_one_row() -> None:
    text = Toy.greedy([3], 20)
    program = LateToy()
    engine = Engine(program)
    end = text.index(text[7])
    run(engine, [(Request((3,), 20, eos_ids=frozenset({text[7]})), 0), (Request((4, 5), 20), 0)])
    rows = [len(step.context_len) for step in program.steps]
    assert rows == [2] * (end + 2) + [1] * (20 - end - 2)
    check_cache(engine, program)


def test_a_step_in_vain_is_waited_for_before_others_and_teaches_nothing() -> None:
    program = LateToy()
    engine = Engine(program)
    eos = frozenset({Toy.greedy([3], 2)[1]})
    for _ in range(4):  # nobody is left when each of these ends, but a step is under way
        run(engine, [(Request((3,), 20, eos_ids=eos, namespace=str(program.submitted)), 0)])
    assert program.under_way == [1, *[2] * 11]
    assert engine.counters.steps == 4 * 2
    assert program.landed == program.submitted - 1


@pytest.mark.parametrize("params", [{"repetition_penalty": 1.1}, {"prompt_logprobs": 0}])
def test_a_step_lands_first_if_somebody_needs_the_host(params) -> None:
    """As long as it is unfinished: then the others go on ahead again."""
    program = LateToy()
    requests = [Request((1, 2), 30), Request((3, 4), 10, SamplingParams(**params))]
    run(Engine(program), [(requests[0], 0), (requests[1], 5)])
    assert program.under_way == [1, *[2] * 4, *[1] * 11, *[2] * 14]


def test_a_deferred_step_is_under_way_between_two_calls() -> None:
    """Also if somebody needs the host: its readers are told while the next step runs."""
    program = LateToy()
    engine = Engine(program)
    request = Request((1, 2), 5, SamplingParams(frequency_penalty=0.1))
    engine.add(request)
    assert engine.step() == []
    assert (program.submitted, program.landed) == (1, 0)
    assert [delta.token_ids for delta in engine.step()] == [(request.output[0],)]
    assert (program.submitted, program.landed) == (2, 1)


def test_others_use_the_program_when_nothing_is_under_way() -> None:
    program = LateToy()
    engine = Engine(program)
    requests = [Request((1, 2, n), 20) for n in range(3)]
    for request in requests:
        engine.add(request)
    told, tokens = Told(), [int(t) for t in np.random.default_rng(0).integers(0, 97, 60)]
    for _ in range(4):
        told.add(engine.step())
        got = scoring.logits(engine, tokens)
        want = np.stack([Toy.logits(tokens[: n + 1]) for n in range(len(tokens))])
        np.testing.assert_array_equal(got, want)
    while engine.has_work:
        told.add(engine.step())
    for request in requests:
        assert request.output == Toy.greedy(list(request.prompt), 20)
        assert told.ids[id(request)] == request.output
    check_cache(engine, program)


def test_who_has_no_token_to_choose_ends_alone() -> None:
    """The next step has a row for it already, behind a token that there isn't."""
    program = LateToy()
    engine = Engine(program)
    nothing = SamplingParams(bad_words=tuple((token,) for token in range(97)))
    stuck, other = Request((1, 2), 9, nothing), Request((1, 2), 9)
    run(engine, [(stuck, 0), (other, 0)])
    assert (stuck.finish_reason, stuck.output) == ("error", [])
    assert stuck.error is not None
    assert stuck.error.id == "LLMC-E0205"
    assert other.output == Toy.greedy([1, 2], 9)
    check_cache(engine, program)


def test_what_fails_on_the_device_fails_the_engine_and_all_can_end() -> None:
    class Failing(LateToy):
        def run_until(self, number: int) -> None:
            if number > 3:
                raise LlmcError("LLMC-E0102", "the device is gone")
            super().run_until(number)

    engine = Engine(Failing())
    requests = [Request((n,), 20) for n in range(3)]
    for request in requests:
        engine.add(request)
    for _ in range(4):
        engine.step()
    with pytest.raises(LlmcError, match="E0102"):
        engine.step()
    for request in requests:
        engine.finish(request, "error")
    assert [request.output for request in requests] == [Toy.greedy([n], 3) for n in range(3)]
    assert not [r for r in requests if r.finish_reason != "error"]


def test_placeholders_are_refused_where_no_row_is_behind_them() -> None:
    program = LateToy()
    run(Engine(program), [(Request((1, 2), 3), 0)])
    inputs = program.steps[-1]
    inputs.token_ids[0] = -3
    check_inputs(inputs, program, rows_before=3)
    for rows in (0, 2):
        with pytest.raises(LlmcError, match="E0100"):
            check_inputs(inputs, program, rows_before=rows)
