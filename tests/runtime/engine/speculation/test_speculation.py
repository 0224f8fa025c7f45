"""Drafts of all kinds change no text, no log-probability and no end; good ones save steps."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.runtime.engine.engine import Engine, EngineOptions
from llmc.runtime.engine.request import Request
from llmc.runtime.engine.sampling.grammar import Grammar, GrammarCompiler
from llmc.runtime.engine.sampling.parameters import SamplingParams
from llmc.runtime.text.output import OutputText
from llmc.runtime.text.tokenizer import Tokenizer

VOCAB = 97
NO_CLOCK = EngineOptions(decode_slack=None)
"""Steps have the same shape whatever they take, so that they can be compared."""
KINDS = ("right", "wrong", "half right", "random", "too long", "never")


class Guesses:
    """A proposer that knows what comes: `texts` holds the whole output of each request. What it
    makes of that is its kind, a draw for each sequence and step; None draws the kind, too."""

    def __init__(self, texts: dict[int, list[int]], kind: str | None, seed: int = 0) -> None:
        self.texts, self.kind, self.random = texts, kind, random.Random(seed)
        self.finished_ones: list[Any] = []

    def propose(self, sequences: Sequence[Any], most: Sequence[int]) -> list[list[int]]:
        assert len(sequences) == len(most)
        assert min(most) > 0
        return [
            self._of(sequence.request, count)
            for sequence, count in zip(sequences, most, strict=True)
        ]

    def _of(self, request: Request, most: int) -> list[int]:
        kind, source = self.kind or self.random.choice(KINDS), self.random
        right = self.texts[id(request)][len(request.output) :][:most]
        wrong = [(token + source.randrange(1, VOCAB)) % VOCAB for token in right]
        cut = source.randrange(len(right) + 1)
        return {
            "right": right,
            "wrong": wrong,
            "half right": right[:cut] + wrong[cut:],
            "random": [source.randrange(VOCAB) for _ in range(source.randrange(most + 1))],
            "too long": right + [5] * 400,
            "never": [],
        }[kind]

    def finished(self, sequence: Any) -> None:
        self.finished_ones.append(sequence.request)


def run(engine: Engine, arrivals: Sequence[tuple[Request, int]]) -> dict[int, str]:
    """Runs requests that come before these steps. Returns the text that their readers were told,
    after checking what must hold after every step."""
    told: dict[int, tuple[list[int], str]] = {id(request): ([], "") for request, _ in arrivals}
    step, computed = 0, {}
    while engine.has_work or any(arrival >= step for _, arrival in arrivals):
        for request, arrival in arrivals:
            if arrival == step:
                engine.add(request)
        deltas = engine.step()
        assert len({id(delta.request) for delta in deltas}) == len(deltas)
        for delta in deltas:
            ids, text = told[id(delta.request)]
            told[id(delta.request)] = [*ids, *delta.token_ids], text + delta.text
        for running in engine.scheduler.running:
            assert running.computed >= computed.get(id(running.hold), 0)
            assert running.uncomputed >= 1
            assert running.hold is not None
            if running.decodes and running.request.output:  # no block for what was refused
                columns = -(-running.computed // engine.cache.block_size)
                assert {len(table) for table in running.hold.tables} == {columns}
        computed = {id(running.hold): running.computed for running in engine.scheduler.running}
        step += 1
        assert step < 5000
    for request, _ in arrivals:
        assert told[id(request)][0] == request.output
    return {identity: text for identity, (_, text) in told.items()}


def results(request: Request, told: dict[int, str]) -> tuple[Any, ...]:
    return (
        request.output,
        told[id(request)],
        request.finish_reason,
        request.stop_reason,
        request.error and request.error.id,
        request.logprobs,
        request.prompt_logprobs,
    )


def check_same(toy: Any, make: Any, kind: str | None, seed: int, **limits: Any) -> list[Any]:
    """Runs what `make()` gives without and with a proposer. Returns both programs."""
    plain, made = toy(**limits), make()
    told = run(Engine(plain, options=NO_CLOCK), made)
    want = [results(request, told) for request, _ in made]
    program, again = toy(**limits), make()
    texts = {id(b): a.output for (a, _), (b, _) in zip(made, again, strict=True)}
    guesses = Guesses(texts, kind, seed)
    engine = Engine(program, options=NO_CLOCK, proposer=guesses)
    told = run(engine, again)
    assert [results(request, told) for request, _ in again] == want
    assert [pool.available for pool in engine.cache.pools] == list(program.cache_blocks)
    assert {id(r) for r in guesses.finished_ones} == {id(r) for r, _ in again}
    assert len(guesses.finished_ones) == len(again)
    check_tree(engine, [[*r.prompt, *r.output] for r, _ in again])
    return [plain, program]


def check_tree(engine: Engine, texts: list[list[int]]) -> None:
    """The prefix tree holds beginnings of what was really said."""

    def walk(node: Any, tokens: list[int]) -> None:
        assert any(text[: len(tokens)] == tokens for text in texts)
        for child in node.children.values():
            walk(child, [*tokens, *child.tokens])

    walk(engine.cache.index.root(""), [])


@pytest.fixture(scope="module")
def tokenizer(words):
    return Tokenizer(words.json)


@pytest.fixture(scope="module")
def grammars(words):
    compiler = GrammarCompiler(words.json, VOCAB, [1])
    patterns = "(he|hello|wor|ld| )*", "[a-z]{3,9}", "a?b?c?"
    return [compiler.compile(Grammar.regex(pattern)) for pattern in patterns]


prompts = st.lists(st.integers(0, 96), min_size=1, max_size=90)
options = st.fixed_dictionaries(
    {"seed": st.integers(0, 99)},
    optional={
        "temperature": st.sampled_from([0.05, 0.3, 1.0]),
        "top_k": st.sampled_from([1, 5]),
        "top_p": st.just(0.8),
        "repetition_penalty": st.just(1.3),
        "frequency_penalty": st.just(0.5),
        "logit_bias": st.just({5: 0.4, 9: 0.4}),
        "bad_words": st.just(((5,), (9, 9), (11, 5))),
        "logprobs": st.just(2),
        "prompt_logprobs": st.just(1),
        "min_tokens": st.just(4),
    },
)
asked = st.fixed_dictionaries(
    {
        "prompt": prompts,
        "max_tokens": st.integers(1, 50),
        "params": options,
        "arrival": st.integers(0, 15),
        "stop": st.sampled_from([None, (), ("e",), ("lo", "wo"), ("hello", "</s>")]),
        "grammar": st.sampled_from([None, None, None, 0, 1, 2]),
        "eos": st.frozensets(st.integers(0, 96), max_size=4),
        "follows": st.booleans(),
    }
)


@settings(deadline=None, max_examples=60)
@given(
    traffic=st.lists(asked, min_size=1, max_size=7),
    kind=st.sampled_from([*KINDS, None]),
    seed=st.integers(0, 9),
    blocks=st.sampled_from([(40, 24), (12, 8), (10, 7)]),
    prefix=st.integers(0, 60),
    rows=st.sampled_from([6, 9, 48]),
)
def test_drafts_change_nothing(toy, tokenizer, grammars, traffic, kind, seed, blocks, prefix, rows):
    """Random requests of all kinds, on a cache that is often too small, sharing beginnings."""

    def make() -> list[tuple[Request, int]]:
        made: list[tuple[Request, int]] = []
        for one in traffic:
            grammar = None if one["grammar"] is None else grammars[one["grammar"]]
            before = made[-1] if made and one["follows"] else None
            request = Request(
                before[0].prompt if before else (*range(7, 7 + prefix), *one["prompt"]),
                one["max_tokens"],
                SamplingParams(**one["params"]),
                frozenset({1}) if grammar else one["eos"],
                text=None if one["stop"] is None else OutputText(tokenizer, one["stop"]),
                grammar=grammar,
                follows=before and before[0],
            )
            made.append((request, before[1] if before else one["arrival"]))
        return made

    check_same(toy, make, kind, seed, cache_blocks=blocks, max_logits_rows=rows)


def test_right_drafts_save_steps(toy):
    """As many tokens a step as there are rows of logits, less the prompt's."""

    def make() -> list[tuple[Request, int]]:
        return [(Request((1, 2, 3), 41), 0)]

    plain, program = check_same(toy, make, "right", 0, max_logits_rows=8)
    assert (len(plain.steps), len(program.steps)) == (41, 1 + 40 // 8)
    assert [len(step.logits_rows) for step in program.steps] == [1, 8, 8, 8, 8, 8]
    request, _ = make()[0]
    run(Engine(toy()), [(request, 0)])
    assert request.output == toy.greedy([1, 2, 3], 41)


def test_wrong_drafts_cost_no_step_and_preempt_nobody(toy):
    """The cache is too small for all, so who is preempted is told by every block that is taken."""

    def make() -> list[tuple[Request, int]]:
        return [(Request(tuple(range(n, n + 40)), 60), n) for n in range(6)]

    def firsts(step: Any) -> list[int]:
        return [step.positions[at] for at in step.query_start[:-1]]

    limits: dict[str, Any] = {"cache_blocks": (12, 12), "max_logits_rows": 48}
    plain, program = check_same(toy, make, "wrong", 0, **limits)
    assert len(plain.steps) == len(program.steps)
    for one, other in zip(plain.steps, program.steps, strict=True):
        assert firsts(one) == firsts(other)
    assert any(len(step.token_ids) > len(step.context_len) * 4 for step in program.steps[60:])


def test_drafts_come_after_all_who_have_something_to_compute(toy):
    """A long prompt and decoding sequences fill the step: nothing is left to guess in."""
    program = toy(max_logits_rows=48)
    first, long = Request((1, 2, 3), 30), Request(tuple(n % 97 for n in range(200)), 2)
    texts = {id(first): toy.greedy([1, 2, 3], 30), id(long): toy.greedy(list(long.prompt), 2)}
    engine = Engine(program, options=NO_CLOCK, proposer=Guesses(texts, "right"))
    run(engine, [(first, 0), (long, 1)])
    counts = [
        [b - a for a, b in zip(step.query_start, step.query_start[1:], strict=False)]
        for step in program.steps
    ]
    assert counts[0] == [3]
    assert counts[1:5] == [[1, 47]] * 4
    assert counts[5] == [25, 12]  # 25 tokens are left to come: 24 drafts, and the one after
    assert (first.output, long.output) == (texts[id(first)], texts[id(long)])


@pytest.mark.parametrize("place", range(9))
def test_an_end_of_text_inside_a_run_of_accepted_drafts(toy, place):
    text = toy.greedy([3], 20)
    request = Request((3,), 20, eos_ids=frozenset({text[place]}))
    guesses = Guesses({id(request): text}, "right")
    run(Engine(toy(max_logits_rows=30), proposer=guesses), [(request, 0)])
    assert request.output == text[: text.index(text[place]) + 1]
    assert (request.finish_reason, request.stop_reason) == ("stop", text[place])


def test_a_stop_string_inside_a_run_of_accepted_drafts(toy, tokenizer):
    ids = toy.greedy([3], 20)
    whole = tokenizer.decode(ids)
    stop = whole[7:9]
    request = Request((3,), 20, text=OutputText(tokenizer, (stop,)))
    guesses = Guesses({id(request): ids}, "right")
    told = run(Engine(toy(max_logits_rows=30), proposer=guesses), [(request, 0)])
    assert told[id(request)] == whole[: whole.index(stop)]
    assert (request.finish_reason, request.stop_reason) == ("stop", stop)
    assert len(request.output) < 20


def test_who_has_no_token_to_choose_behind_an_accepted_draft_ends(toy):
    text = toy.greedy([1, 2], 3)
    nothing = SamplingParams(bad_words=tuple((text[1], token) for token in range(VOCAB)))

    def make() -> list[tuple[Request, int]]:
        return [(Request((1, 2), 9, nothing), 0)]

    plain, program = check_same(toy, make, "too long", 0, max_logits_rows=30)
    assert (len(plain.steps), len(program.steps)) == (3, 2)


def test_a_program_of_uniform_steps_is_never_given_drafts(toy):
    request = Request((1, 2, 3), 12)
    program = toy(uniform_query=True, max_logits_rows=30)
    guesses = Guesses({}, "right")  # would fail if it were asked
    run(Engine(program, proposer=guesses), [(request, 0)])
    assert request.output == toy.greedy([1, 2, 3], 12)


def test_who_leaves_between_steps_takes_its_drafts_along(toy):
    text = toy.greedy([1, 2], 60)
    request = Request((1, 2), 60)
    guesses = Guesses({id(request): text}, "half right")
    engine = Engine(toy(max_logits_rows=30), proposer=guesses)
    engine.add(request)
    for _ in range(3):
        engine.step()
    engine.finish(request)
    engine.step()
    assert request.output == text[: len(request.output)]
    assert [pool.used for pool in engine.cache.pools] == [0, 0]
    check_tree(engine, [[*request.prompt, *request.output]])


def test_times_between_tokens_add_up(toy):
    """Several tokens of one step are counted as if they had come one by one since the last."""
    request = Request((1, 2, 3), 41)
    guesses = Guesses({id(request): toy.greedy([1, 2, 3], 41)}, "right")
    engine = Engine(toy(max_logits_rows=8), proposer=guesses)
    run(engine, [(request, 0)])
    between = engine.counters.inter_token_seconds
    assert between.count == 40
    times = request.timings
    assert between.sum == pytest.approx(times.last_token - times.first_token)
    assert engine.counters.generated_tokens == 41
