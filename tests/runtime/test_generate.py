"""From an artifact on disk to text: `load`, `generate`, streams side by side."""

import gc
import subprocess
import sys
import threading

import llmc
import numpy as np
import pytest
from llmc.runtime import conformance, machine
from llmc.runtime.artifact import ConformanceVector
from llmc.runtime.errors import LlmcError
from llmc.runtime.generate import Model
from llmc.runtime.loading import plan_cache, select_variant


@pytest.fixture
def model(toy_artifact):
    with llmc.load(toy_artifact, threads=1, verify_weights=True) as model:
        yield model


@pytest.fixture
def toy_model(toy, words) -> Model:
    return Model(
        toy(), tokenizer=words.json, chat_template=words.template, generation=words.generation
    )


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
def test_an_abandoned_stream_frees_its_cache(toy_model, how):
    free = free_blocks(toy_model)
    stream = toy_model.generate([5, 9], max_tokens=60, ignore_eos=True)
    if how != "unread":
        next(stream)
        assert free_blocks(toy_model) != free
    if how == "close":
        stream.close()
        assert list(stream) == []
    del stream
    gc.collect()
    list(toy_model.generate([1], max_tokens=1))
    assert free_blocks(toy_model) == free
    assert not toy_model.engine.has_work


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


def test_a_closed_model_ends_its_streams(toy_model):
    stream = toy_model.generate([4], max_tokens=50, ignore_eos=True)
    next(stream)
    toy_model.close()
    toy_model.close()
    assert [c.finish_reason for c in stream][-1] == "aborted"


def test_logits_of_a_text(model, toy):
    tokens = [t * 5 % 97 for t in range(70)]
    want = np.stack([toy.logits(tokens[: n + 1]) for n in range(70)])
    np.testing.assert_array_equal(model.logits(tokens), want)
    pieces = [rows.copy() for _, rows in model.iter_logits(tokens)]
    np.testing.assert_array_equal(np.concatenate(pieces), want)


def test_a_smaller_context_and_bad_options(toy_artifact):
    with (
        llmc.load(toy_artifact, threads=1, max_context=40) as model,
        pytest.raises(LlmcError, match="context 40"),
    ):
        model.generate([1] * 41)
    with pytest.raises(LlmcError, match="E0205"):
        llmc.load(toy_artifact, threads=0)
    with pytest.raises(LlmcError, match="E0205"):
        llmc.load(toy_artifact, max_context=0)
    with pytest.raises(LlmcError, match="E0601"):
        llmc.load(toy_artifact, memory=9000)


# ---- choosing a variant, planning memory


def test_the_most_demanding_variant_that_runs_here_is_chosen(
    make_variant, tiny_manifest, monkeypatch
):
    monkeypatch.setattr(machine, "native_features", lambda: frozenset({"avx2", "fma"}))
    levels = {
        "portable": [],
        "x86-64-v3": ["avx2", "fma"],
        "x86-64-v4": ["avx2", "avx512f", "fma"],
    }
    variants = [make_variant(level=n, required_features=f) for n, f in levels.items()]
    assert select_variant(tiny_manifest(4096, 5000, variants=variants)).level == "x86-64-v3"
    with pytest.raises(LlmcError, match=r"E0506.*avx512f"):
        select_variant(tiny_manifest(4096, 5000, variants=variants[2:]))


@pytest.mark.parametrize("other", [{"system": "plan9"}, {"machine": "vax"}, {"target": "tpu"}])
def test_variants_for_other_machines_are_not_ours(make_variant, tiny_manifest, other):
    manifest = tiny_manifest(4096, 5000, variants=[make_variant(**other)])
    with pytest.raises(LlmcError, match="E0507"):
        select_variant(manifest)


def test_the_cache_follows_the_memory_plan(make_variant):
    variant = make_variant()
    per_sequence = (10, 4)  # 320 tokens; 40 - 1 + 48 tokens of window and step
    fixed = 4096 + 6 * 97 * 4 + 1000
    (block,) = {group.bytes_per_block for group in variant.cache_groups}

    def plan(memory, max_context=None):
        return plan_cache(variant, weights_bytes=1000, max_context=max_context, memory=memory)

    assert plan(1 << 30) == (60, 24)  # never more than max_sequences can use
    assert plan(fixed + 14 * block) == per_sequence
    assert plan(fixed + 2 * 14 * block) == (20, 8)
    full, sliding = plan(fixed + 11 * block)
    assert full + sliding == 11
    assert full < 10
    assert plan(fixed + 1000 * block, max_context=64) == (12, 12)
    with pytest.raises(LlmcError, match="E0601"):
        plan(fixed + block)


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
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
