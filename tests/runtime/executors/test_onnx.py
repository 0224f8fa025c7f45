"""The executor of target `onnx` with a model of one layer, against the same in numpy."""

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from llmc.artifact.manifest import Limits, MemoryPlan, Variant, make_cache_group
from llmc.artifact.program import StepInputs
from llmc.artifact.targets import CacheInput, OnnxProgramOptions
from llmc.base.errors import LlmcError
from llmc.runtime.executors import onnx as executor
from llmc.runtime.executors.onnx_weights import external_weights
from llmc.runtime.executors.slots import SlotPlanner

pytest.importorskip("onnxruntime", reason="the onnx target's package isn't installed")

VOCAB, HEADS, KV_HEADS, WIDTH = 37, 4, 2, 16
CONTEXT, QUERY = 40, 8
LENGTH = CONTEXT + QUERY - 1
SLOTS = 5
SCALE = 0.3


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    widths = {"queries": HEADS, "keys": KV_HEADS, "values": KV_HEADS}
    made = {name: rng.standard_normal((VOCAB, n * WIDTH)) for name, n in widths.items()}
    made["head"] = rng.standard_normal((HEADS * WIDTH, VOCAB))
    return {name: array.astype(np.float32) for name, array in made.items()}


def model_bytes() -> tuple[bytes, memoryview]:
    """A model that looks up queries, keys and values, attends, and multiplies with a head."""
    parts, offset = [], 0
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 24, "com.microsoft": 1}, name="toy")
    named = {}
    for name, array in weights().items():
        shape = ir.Shape(array.shape)
        place = ir.ExternalTensor(
            "weights", offset, array.nbytes, ir.DataType.FLOAT, shape=shape, name=name
        )
        named[name] = ir.Value(
            name=name, const_value=place, type=ir.TensorType(place.dtype), shape=shape
        )
        graph.register_initializer(named[name])
        parts.append(array.tobytes())
        offset += array.nbytes

    def add(op: str, *inputs: Any, domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        node = ir.node(op, inputs, attributes, domain=domain, num_outputs=outputs)
        graph.append(node)
        return node.outputs if outputs > 1 else node.outputs[0]

    def given(name: str, dtype: ir.DataType, *dims: int | str) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))
        graph.inputs.append(value)
        return value

    def const(*numbers: int) -> ir.Value:
        tensor = ir.tensor(np.array(numbers, np.int64), name=f"const{len(graph.initializers)}")
        value = ir.Value(name=tensor.name, const_value=tensor, shape=ir.Shape([len(numbers)]),
                         type=ir.TensorType(tensor.dtype))  # fmt: skip
        graph.register_initializer(value)
        return value

    token_ids = given("token_ids", ir.DataType.INT64, "sequences", "query_tokens")
    start = given("start", ir.DataType.INT64, "sequences")
    rows = given("logits_rows", ir.DataType.INT64, "logits_rows")
    cache = ("sequences", KV_HEADS, "cache_length", WIDTH)
    caches = [given(f"{n}_cache.0", ir.DataType.FLOAT, *cache) for n in ("key", "value")]
    query = add("Shape", token_ids, start=1, end=2)
    last = add("Add", start, add("Sub", query, const(1)))
    total = add("Add", add("ReduceMax", last, keepdims=1), const(1))
    lengths = [add("Cast", x, to=ir.DataType.INT32.value) for x in (last, total)]
    looked_up = [add("Gather", named[n], token_ids, axis=0) for n in ("queries", "keys", "values")]
    y, *written = add(
        "GroupQueryAttention", *looked_up, *caches, *lengths, domain="com.microsoft", outputs=3,
        num_heads=HEADS, kv_num_heads=KV_HEADS, scale=SCALE,
    )  # fmt: skip
    flat = add("Reshape", y, const(-1, HEADS * WIDTH))
    logits = add("MatMul", add("Gather", flat, rows, axis=0), named["head"])
    for value, name in zip((logits, *written), ("logits", *(f"{c.name}.out" for c in caches)),
                           strict=True):  # fmt: skip
        value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(cache if name != "logits" else ("logits_rows", VOCAB))
        graph.outputs.append(value)
    proto = ir.to_proto(ir.Model(graph, ir_version=11)).SerializeToString()
    return proto, memoryview(b"".join(parts))


CACHES = [
    CacheInput(name=f"{part}_cache.0", dtype="f32", heads=KV_HEADS, width=WIDTH)
    for part in ("key", "value")
]


def variant(**changes: Any) -> Variant:
    limits = Limits(
        max_tokens=64, max_sequences=SLOTS, max_context=CONTEXT, max_logits_rows=SLOTS,
        block_size=LENGTH, uniform_query=True,
    )  # fmt: skip
    group = make_cache_group(
        name="full", window=0, layers=1, kv_heads=KV_HEADS, key_dim=WIDTH, value_dim=WIDTH,
        dtype="f32", block_size=LENGTH,
    )  # fmt: skip
    fields: dict[str, Any] = {"limits": limits, "cache_groups": [group], **changes}
    fields.setdefault("options", OnnxProgramOptions(dialect="ort", caches=CACHES))
    return Variant(
        target="onnx", level="cpu", system="any", machine="any", program="programs/onnx",
        weights="weights/nbits.safetensors", memory_plan=MemoryPlan(arena_bytes=0),
        vocab_size=VOCAB, **fields,
    )  # fmt: skip


@pytest.fixture
def program():
    running = executor.open_program(variant(), *model_bytes(), threads=1, cache_blocks=(SLOTS,))
    yield running
    running.close()


def inputs(tokens: dict[int, list[int]], held: dict[int, list[int]], rows: list[int]) -> StepInputs:
    """A step in which slot s brings tokens[s] behind held[s]."""
    ids, positions, starts, lengths, tables = [], [], [0], [], []
    for slot, new in tokens.items():
        first = len(held[slot])
        ids += new
        positions += range(first, first + len(new))
        starts.append(len(ids))
        lengths.append(first + len(new))
        tables.append([slot])
    return StepInputs(ids, positions, starts, lengths, rows, [tables])


def expected(text: list[int]) -> np.ndarray:
    """Logits of every token of a sequence, in float64."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    q = w["queries"][text].reshape(-1, HEADS, WIDTH)
    k, v = (w[n][text].reshape(-1, KV_HEADS, WIDTH) for n in ("keys", "values"))
    k, v = (np.repeat(x, HEADS // KV_HEADS, axis=1) for x in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) * SCALE
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", p, v).reshape(len(text), -1) @ w["head"]


def test_prompts_chunks_and_decode_of_several_slots(program):
    rng = np.random.default_rng(1)
    held: dict[int, list[int]] = {slot: [] for slot in range(SLOTS)}
    schedule = [
        {0: 5, 3: 8},  # two prompts of different lengths
        {1: 1, 4: 7},  # one of a single token
        {0: 1, 3: 1},  # decode with a gap between the slots
        {4: 6},  # a second chunk, behind a past
        {0: 1, 1: 1, 3: 1, 4: 1},
        {2: 3, 0: 1},  # a prompt and a decode in one step, slots not in order
    ]
    for counts in schedule:
        tokens = {s: rng.integers(0, VOCAB, n).tolist() for s, n in counts.items()}
        ends = np.cumsum(list(counts.values())).tolist()
        program._logits[:] = np.nan
        outputs = program.step(inputs(tokens, held, [end - 1 for end in ends]))
        for slot, new in tokens.items():
            held[slot] = held[slot] + new
        want = np.stack([expected(held[slot])[-1] for slot in tokens])
        # f32 sums of up to 64 products of normal numbers, against float64
        np.testing.assert_allclose(outputs.logits, want, rtol=0, atol=2e-4)
        assert outputs.argmax == want.argmax(1).tolist()


def test_logits_of_any_rows_and_of_none(program):
    text = list(range(7, 15))
    assert program.step(inputs({2: text[:4]}, {2: []}, [])).argmax == []
    outputs = program.step(inputs({2: text[4:]}, {2: text[:4]}, [3, 0, 2]))
    want = expected(text)[[7, 4, 6]]
    np.testing.assert_allclose(outputs.logits, want, rtol=0, atol=2e-4)


def test_a_slot_is_copied_and_goes_on_by_itself(program):
    text = [3, 1, 4, 1, 5]
    program.step(inputs({0: text}, {0: []}, []))
    program.copy_block(0, 0, 2)
    outputs = program.step(inputs({0: [9], 2: [26]}, {0: text, 2: text}, [0, 1]))
    want = np.stack([expected([*text, 9])[-1], expected([*text, 26])[-1]])
    np.testing.assert_allclose(outputs.logits, want, rtol=0, atol=2e-4)


def test_what_a_slot_held_before_has_no_effect(program):
    program.step(inputs({1: [30] * 8}, {1: []}, []))
    text = [2, 7]
    outputs = program.step(inputs({1: text}, {1: []}, [1]))
    np.testing.assert_allclose(outputs.logits[0], expected(text)[-1], rtol=0, atol=2e-4)


def test_weights_stay_where_they_are():
    """Tensors are views of the mapped weights, not copies."""
    model, data = model_bytes()
    running = executor.open_program(variant(), model, data, threads=1, cache_blocks=(SLOTS,))
    base = np.frombuffer(data, np.uint8).ctypes.data
    wanted = external_weights(model)
    assert [one.name for one in wanted] == list(weights())
    for one, value in zip(wanted, running._weights, strict=True):
        assert value.data_ptr() == base + one.offset
    running.close()


def test_tensors_of_4_bits_come_from_the_same_weights():
    """numpy has no such type, so the runtime reads them itself, where the model says."""
    model, data = model_bytes()
    loaded = ir.from_proto(onnx.ModelProto.FromString(model))
    assert isinstance(loaded, ir.Model)
    codes = np.random.default_rng(3).integers(0, 16, (HEADS * WIDTH, VOCAB + 1), np.uint8)
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).tobytes()
    place = ir.ExternalTensor(
        "weights", len(data), len(packed), ir.DataType.UINT4,
        shape=ir.Shape((HEADS * WIDTH, VOCAB + 1)), name="codes",
    )  # fmt: skip
    value = ir.Value(name="codes", const_value=place, shape=ir.Shape(list(codes.shape)),
                     type=ir.TensorType(place.dtype))  # fmt: skip
    graph = loaded.graph
    graph.register_initializer(value)
    scale = ir.tensor(np.float32(1), name="scale")
    graph.register_initializer(ir.Value(name="scale", const_value=scale, shape=ir.Shape([]),
                                        type=ir.TensorType(scale.dtype)))  # fmt: skip
    node = ir.node("DequantizeLinear", [value, graph.initializers["scale"]])
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    node.outputs[0].name, node.outputs[0].type = "more", ir.TensorType(ir.DataType.FLOAT)
    running = executor.open_program(
        variant(), ir.to_proto(loaded).SerializeToString(),
        memoryview(bytes(data) + packed), threads=1, cache_blocks=(SLOTS,),
    )  # fmt: skip
    cache = np.zeros((1, KV_HEADS, LENGTH, WIDTH), np.float32)
    given = {"token_ids": [[1]], "start": [0], "logits_rows": [0]}
    feed = {name: np.array(numbers, np.int64) for name, numbers in given.items()}
    feed |= {"key_cache.0": cache, "value_cache.0": cache.copy()}
    logits, found = running._session.run(["logits", "more"], feed)
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_allclose(logits[0], expected([1])[0], rtol=0, atol=2e-4)
    running.close()


MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import test_onnx as t
slots, length = 64, 1 << 15
limits = t.Limits(max_tokens=64, max_sequences=slots, max_context=length - 7, max_logits_rows=4,
                  block_size=length, uniform_query=True)
group = t.make_cache_group(name="full", window=0, layers=1, kv_heads=t.KV_HEADS, key_dim=t.WIDTH,
                           value_dim=t.WIDTH, dtype="f32", block_size=length)
variant = t.variant(limits=limits, cache_groups=[group])
program = t.executor.open_program(variant, *t.model_bytes(), threads=1, cache_blocks=(slots,))
one = t.inputs({0: [1, 2, 3], 63: [4, 5, 6]}, {0: [], 63: []}, [2])
program.step(one)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
held = {s: [1, 2, 3] for s in range(slots)}
for _ in range(3):
    program.step(t.inputs({s: [7] for s in range(slots)}, held, [0, 63]))
print(group.bytes_per_block * slots >> 20, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's peak of resident memory")
def test_no_step_copies_the_cache(tmp_path):
    """Caches of 512 MiB, of which steps touch a few pages: a copy would touch all of it."""
    from pathlib import Path

    arguments = [sys.executable, "-c", MEMORY, str(Path(__file__).parent)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    cache, growth = map(int, done.stdout.split())
    assert cache == 512
    assert growth < 32, f"{growth} MiB more after steps with {cache} MiB of cache"


@pytest.mark.parametrize("broken", [b"", b"\x00\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_refused(broken, capfd):
    with pytest.raises(LlmcError) as raised:
        executor.open_program(variant(), broken, None, threads=1, cache_blocks=(SLOTS,))
    assert raised.value.id == "LLMC-E0509"
    assert capfd.readouterr().err == ""


def test_weights_that_are_too_short_are_refused():
    model, data = model_bytes()
    with pytest.raises(LlmcError, match="lack the model's tensor head") as raised:
        executor.open_program(variant(), model, data[:-4], threads=1, cache_blocks=(SLOTS,))
    assert raised.value.id == "LLMC-E0509"


def test_without_onnxruntime_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LlmcError) as raised:
        executor.open_program(variant(), *model_bytes(), threads=1, cache_blocks=(SLOTS,))
    assert raised.value.id == "LLMC-E0703"
    assert "llmc-compiler[onnx]" in (raised.value.hint or "")


def test_a_cache_that_the_model_does_not_have_is_refused():
    other = CacheInput(name="other", dtype="f32", heads=1, width=8)
    wrong = variant(options=OnnxProgramOptions(caches=[*CACHES, other]))
    with pytest.raises(LlmcError, match="other") as refused:
        executor.open_program(wrong, *model_bytes(), threads=1, cache_blocks=(SLOTS,))
    assert refused.value.id == "LLMC-E0509"


def test_a_provider_that_is_not_there_is_named():
    assert executor.problem(variant()) is None
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    found = executor.problem(variant(options=OnnxProgramOptions(provider="cuda")))
    assert found is not None
    assert found.id == "LLMC-E0703"


def test_a_closed_program_says_so(program):
    program.close()
    program.close()
    with pytest.raises(LlmcError, match="closed"):
        program.step(inputs({0: [1]}, {0: []}, [0]))


def test_slots_that_run_prompts_alone():
    """Chunks of neighbours are one run, or one each where the runtime can't take several."""
    step = inputs({1: [1, 2], 2: [3, 4, 5]}, {1: [], 2: []}, [1, 4])
    together, alone = (
        SlotPlanner(variant().limits, SLOTS, prompts_alone=one).runs(step) for one in (False, True)
    )
    assert [(run.first, run.rows, run.query) for run in together] == [(1, 2, 3)]
    assert [(run.first, run.rows, run.query) for run in alone] == [(1, 1, 2), (2, 1, 3)]
    assert [run.outputs for run in alone] == [[0], [1]]
