"""From an artifact on disk to text: `load`, `generate`, streams side by side."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import llmc
import numpy as np
import pytest
from llmc.artifact.manifest import ConformanceVector
from llmc.base.errors import LlmcError
from llmc.runtime.api import conformance
from llmc.runtime.api.model import Model


@pytest.fixture
def model(toy_artifact):
    with llmc.load(toy_artifact, threads=1, verify_weights=True) as model:
        yield model


@pytest.fixture
def toy_model(toy, words) -> Model:
    return Model(
        toy(), tokenizer=words.json, chat_template=words.template, generation=words.generation
    )


@pytest.fixture
def slow_model(toy, words) -> Model:
    """Its steps take a millisecond, so that something can happen while it generates."""

    class Slow(toy):
        def step(self, inputs):
            time.sleep(0.001)
            return super().step(inputs)

    return Model(Slow(), tokenizer=words.json, generation=words.generation)


def free_blocks(model):
    return [pool.available for pool in model.engine.cache.pools]


def test_text_ids_and_stats_agree(model, toy):
    stream = model.generate("hello", raw=True, max_tokens=30)
    chunks = list(stream)
    prompt = model.tokenizer.encode("hello", add_special_tokens=True)
    assert stream.prompt_token_ids == prompt
    assert stream.token_ids == toy.greedy(prompt, 30, eos=(1,))
    assert [t for c in chunks for t in c.token_ids] == stream.token_ids
    assert (
        "".join(c.text for c in chunks) == stream.text == model.tokenizer.decode(stream.token_ids)
    )
    assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == stream.finish_reason
    assert all(chunk.text for chunk in chunks[:-1])
    stats = model.stats
    assert stats.output_tokens == len(stream.token_ids)
    assert stats.prompt_tokens == len(prompt)
    assert stats.ttft_ms > 0
    assert stats.tokens_per_s > 0


def test_a_string_goes_through_the_template_unless_raw(model):
    text = "<s>user: hello</s>"
    want = model.tokenizer.encode(text, add_special_tokens=False)
    assert model.encode("hello") == want
    assert model.encode([{"role": "user", "content": "hello"}]) == want
    assert model.encode("hello", raw=True) == model.tokenizer.encode(
        "hello", add_special_tokens=True
    )
    assert model.encode([3, 4]) == [3, 4]
    assert model.encode(np.array([3, 4])) == [3, 4]


def test_streams_read_side_by_side_share_steps(toy_model, toy):
    with toy_model.thread.paused():  # so that none begins before the others
        streams = [toy_model.generate([n, n + 1], max_tokens=20, ignore_eos=True) for n in range(4)]
    got = [[] for _ in streams]
    live = set(range(4))
    while live:
        for i in sorted(live):
            chunk = next(streams[i], None)
            if chunk is None:
                live.remove(i)
            else:
                got[i] += chunk.token_ids
    assert got == [toy.greedy([n, n + 1], 20) for n in range(4)]
    assert len(toy_model.program.steps) == 20


def test_several_threads_may_generate(model, toy):
    results = {}

    def run(n):
        stream = model.generate([n, 2 * n], max_tokens=40, ignore_eos=True)
        results[n] = [t for chunk in stream for t in chunk.token_ids]

    threads = [threading.Thread(target=run, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: toy.greedy([n, 2 * n], 40) for n in range(1, 9)}


def test_a_stop_string_ends_the_text_before_it(toy_model):
    free = free_blocks(toy_model)
    whole = toy_model.generate([5, 9], max_tokens=60, ignore_eos=True)
    list(whole)
    stop = whole.text[10:13]
    stream = toy_model.generate([5, 9], max_tokens=60, ignore_eos=True, stop=[stop, "never"])
    chunks = list(stream)
    assert stream.text == whole.text[: whole.text.index(stop)]
    assert stream.finish_reason == chunks[-1].finish_reason == "stop"
    assert len(stream.token_ids) < len(whole.token_ids)
    assert free_blocks(toy_model) == free


def test_a_stop_string_cut_off_by_the_end_is_given_out(toy_model):
    whole = toy_model.generate([5, 9], max_tokens=40, ignore_eos=True)
    list(whole)
    stream = toy_model.generate(
        [5, 9], max_tokens=40, ignore_eos=True, stop=whole.text[-1] + "\x00"
    )
    list(stream)
    assert stream.text == whole.text
    assert stream.finish_reason == "length"


def test_the_eos_token_is_no_text(toy_model, toy):
    prompt = next(
        [a, b] for a in range(2, 97) for b in range(2, 97) if 1 in toy.greedy([a, b], 6)[2:]
    )
    stream = toy_model.generate(prompt, max_tokens=6)
    list(stream)
    assert stream.token_ids[-1] == 1
    assert stream.finish_reason == "stop"
    assert "</s>" not in stream.text


@pytest.mark.parametrize("how", ["close", "drop", "unread"])
def test_an_abandoned_stream_frees_its_cache(slow_model, how):
    free = free_blocks(slow_model)
    stream = slow_model.generate([5, 9], max_tokens=300, ignore_eos=True)
    if how != "unread":
        next(stream)
    if how == "close":
        stream.close()
        assert list(stream) == []
    del stream
    gc.collect()
    list(slow_model.generate([1], max_tokens=1))
    assert free_blocks(slow_model) == free
    assert len(slow_model.program.steps) < 250, "it was not computed to its end"
    assert not slow_model.engine.has_work


@pytest.mark.parametrize(
    ("prompt", "options", "id"),
    [
        ("hello " * 400, {}, "E0204"),
        ([], {}, "E0206"),
        ([97], {}, "E0208"),
        ([1], {"max_tokens": 0}, "E0205"),
        ([1], {"temperature": -1}, "E0205"),
        ([1], {"stop": [""]}, "E0205"),
        ([{"content": "no role"}, 3], {}, None),
    ],
)
def test_bad_calls_are_refused_at_the_call(toy_model, prompt, options, id):
    free = free_blocks(toy_model)
    with pytest.raises(LlmcError if id else TypeError) as caught:
        toy_model.generate(prompt, **options)
    assert id is None or id in str(caught.value)
    assert free_blocks(toy_model) == free
    assert not toy_model.engine.has_work


def test_without_a_tokenizer_ids_still_work(toy):
    model = Model(toy())
    assert list(model.generate([4], max_tokens=3))[-1].finish_reason == "length"
    for call in (
        lambda: model.generate("text"),
        lambda: model.generate([4], stop="x"),
        lambda: model.generate([{"role": "user", "content": "x"}]),
    ):
        with pytest.raises(LlmcError, match=r"E0210|E0209"):
            call()


def test_a_closed_model_ends_its_streams(slow_model):
    stream = slow_model.generate([4], max_tokens=300, ignore_eos=True)
    next(stream)
    slow_model.close()
    slow_model.close()
    assert [c.finish_reason for c in stream][-1] == "aborted"


def test_logits_of_a_text(model, toy):
    tokens = [t * 5 % 97 for t in range(70)]
    want = np.stack([toy.logits(tokens[: n + 1]) for n in range(70)])
    np.testing.assert_array_equal(model.logits(tokens), want)
    pieces = [rows.copy() for _, rows in model.iter_logits(tokens)]
    np.testing.assert_array_equal(np.concatenate(pieces), want)


def test_several_continuations_of_one_prompt(toy_model):
    options = {"temperature": 1.0, "max_tokens": 12, "ignore_eos": True}
    stream = toy_model.generate([5, 9], n=3, seed=40, **options)
    chunks = list(stream)
    assert {chunk.index for chunk in chunks} == {0, 1, 2}
    for index, choice in enumerate(stream.choices):
        alone = toy_model.generate([5, 9], seed=40 + index, **options)
        list(alone)
        assert choice.token_ids == alone.token_ids
        assert choice.text == alone.text
        assert choice.finish_reason == "length"
        mine = [chunk for chunk in chunks if chunk.index == index]
        assert "".join(chunk.text for chunk in mine) == choice.text
        assert [c.finish_reason for c in mine if c.finish_reason] == ["length"]
    assert stream.stats.output_tokens == 36
    assert stream.text == stream.choices[0].text
    unseeded = toy_model.generate([5, 9], n=3, **options)
    list(unseeded)
    assert len({tuple(choice.token_ids) for choice in unseeded.choices}) == 3


def test_log_probabilities_come_with_their_tokens(toy_model, toy):
    prompt = list(range(2, 60))
    stream = toy_model.generate(
        prompt, max_tokens=20, ignore_eos=True, logprobs=2, prompt_logprobs=1
    )
    seen = []
    for chunk in stream:
        assert [entry.token_id for entry in chunk.logprobs] == list(chunk.token_ids)
        seen += chunk.logprobs
    assert [entry.token_id for entry in seen] == stream.token_ids
    assert seen == stream.choices[0].logprobs
    for index, entry in enumerate(seen):
        row = toy.logits(prompt + stream.token_ids[:index]).astype(np.float64)
        assert entry.logprob == pytest.approx(row.max() - np.log(np.exp(row).sum()), abs=1e-4)
        assert len(entry.top) == 2
        assert entry.top[0][0] == entry.token_id
    assert stream.prompt_logprobs[0] is None
    assert [p.token_id for p in stream.prompt_logprobs[1:]] == prompt[1:]
    assert {chunk.logprobs for chunk in toy_model.generate([3], max_tokens=3)} == {()}


def test_a_timeout_ends_a_generation_with_what_there_is(slow_model):
    stream = slow_model.generate([1], max_tokens=300, ignore_eos=True, timeout=0.1)
    assert list(stream)[-1].finish_reason == "timeout"
    assert len(stream.token_ids) < 300


def test_the_reason_to_stop_is_told(toy_model, toy):
    ids = toy.greedy([5, 9], 30)
    at = next(i for i in range(4, 30) if ids[i] not in ids[:i])
    stream = toy_model.generate([5, 9], max_tokens=30, ignore_eos=True, stop_token_ids=[ids[at]])
    list(stream)
    assert stream.token_ids == ids[: at + 1]
    assert stream.choices[0].stop_reason == ids[at]


def test_a_failing_program_raises_where_it_is_read(toy):
    class Failing(toy):
        def step(self, inputs):
            if len(self.steps) == 4:
                raise LlmcError("LLMC-E0102", "the compiled program failed (code -2)")
            return super().step(inputs)

    model = Model(Failing())
    stream = model.generate([1], max_tokens=50, ignore_eos=True)
    with pytest.raises(LlmcError, match="E0102"):
        list(stream)
    assert list(stream) == []
    assert len(stream.token_ids) == 4
    with pytest.raises(LlmcError, match="E0104"):
        model.generate([1])
    with pytest.raises(LlmcError, match="E0104"):
        model.logits([1])
    assert model.close()


def test_an_interrupt_while_a_chunk_is_awaited_leaves_the_stream_whole(toy):
    let = threading.Event()

    class Gated(toy):
        def step(self, inputs):
            assert let.wait(30)
            return super().step(inputs)

    with Model(Gated()) as model:
        stream = model.generate([3], max_tokens=20, ignore_eos=True)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        let.set()
        assert [t for chunk in stream for t in chunk.token_ids] == toy.greedy([3], 20)


def test_scoring_takes_turns_with_generation(toy_model, toy):
    tokens = [t * 5 % 97 for t in range(40)]
    streams = [toy_model.generate([n], max_tokens=250, ignore_eos=True) for n in range(3)]
    pieces = toy_model.iter_logits(tokens)
    first, rows = next(pieces)
    kept = rows.copy()
    for n, stream in enumerate(streams):  # read while the iteration is under way
        assert [t for c in stream for t in c.token_ids] == toy.greedy([n], 250)
    np.testing.assert_array_equal(rows, kept)
    assert first == 0
    rest = [rows for _, rows in pieces]
    want = np.stack([toy.logits(tokens[: n + 1]) for n in range(40)])
    np.testing.assert_array_equal(np.concatenate([rows, *rest]), want)
    abandoned = toy_model.iter_logits(tokens)
    next(abandoned)
    del abandoned
    gc.collect()
    with toy_model.thread.paused() as engine:
        assert engine.gauges().cache_used == 0


def test_closing_can_finish_what_runs(toy_model, toy):
    stream = toy_model.generate([4], max_tokens=100, ignore_eos=True)
    assert toy_model.close(drain=True)
    assert [t for chunk in stream for t in chunk.token_ids] == toy.greedy([4], 100)
    with pytest.raises(LlmcError, match="E0104"):
        toy_model.generate([4])


# ---- conformance


def test_vectors_replay_and_differences_are_found(toy_model, toy):
    vector = conformance.record(toy_model, [3, 1, 4, 1, 5, 9], greedy_tokens=12, tolerance=1e-6)
    assert vector.greedy_ids == toy.greedy([3, 1, 4, 1, 5, 9], 12)
    assert len(vector.top_ids) == 4
    assert all(check.ok for check in conformance.replay(toy_model, [vector]))

    def changed(**fields) -> list[bool]:
        base = {name: getattr(vector, name) for name in vector.__struct_fields__}
        return [
            c.ok for c in conformance.replay(toy_model, [ConformanceVector(**{**base, **fields})])
        ]

    off = [row.copy() for row in vector.top_logits]
    off[2][1] += 1e-4
    assert changed(top_logits=off) == [False, True]
    assert changed(top_logits=off, tolerance=1e-3) == [True, True]
    wrong = [*vector.greedy_ids[:5], (vector.greedy_ids[5] + 1) % 97, *vector.greedy_ids[6:]]
    assert changed(greedy_ids=wrong) == [True, False]
    tie = np.argsort(toy.logits([3, 1, 4, 1, 5, 9]))[-2:]
    second = toy.logits([3, 1, 4, 1, 5, 9])[tie]
    tolerance = float(second[1] - second[0])
    assert changed(greedy_ids=[int(tie[0])], tolerance=tolerance) == [True, True]
    assert changed(greedy_ids=[int(tie[0])], tolerance=tolerance / 4) == [True, False]
    assert changed(top_ids=[[97]], top_logits=[[0.0]]) == [False]
    assert changed(top_ids=[[1], [2, 3]], top_logits=[[0.0]]) == [False]
    assert changed(prompt_ids=[1] * 400) == [False]


def test_verify_checks_digests_and_vectors(tmp_path, toy_artifact):
    checks = conformance.verify(toy_artifact, threads=1)
    assert all(check.ok for check in checks)
    assert "digest weights/cpu.safetensors" in [check.name for check in checks]
    data = bytearray(toy_artifact.read_bytes())
    seed = data.index((0x0123456789ABCDEF).to_bytes(8, "little"))
    data[seed] ^= 1
    (tmp_path / "bad.llmc").write_bytes(data)
    bad = {c.name for c in conformance.verify(tmp_path / "bad.llmc", threads=1) if not c.ok}
    assert bad == {"digest weights/cpu.safetensors"}


def test_the_runtime_needs_no_torch_and_little_else(toy_artifact):
    """Loading and generating imports neither torch nor transformers, nor what is only for chat."""
    script = (
        "import sys, llmc\n"
        f"m = llmc.load({str(toy_artifact)!r}, threads=1)\n"
        "assert next(m.generate([1, 2], max_tokens=2)).token_ids\n"
        "heavy = {'torch', 'transformers', 'jinja2', 'typer', 'rich', 'asyncio', 'numpy'}\n"
        "heavy |= {'logging', 'llguidance', 'prometheus_client', 'opentelemetry', 'fastapi'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
