"""The whole backend on a toy transformer: rolled bodies, paged cache, several sequences a step.

The graph is built by hand, compiled, and run through `runtime/executors/cpu.py`; the
interpreter of the IR is the oracle. Tolerance: f32 sums in another order, 1e-5 of the range.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph_harness import constant, constant_tensor, pack_weights
from kernel_harness import runnable_levels
from llmc.artifact.manifest import Limits, Variant
from llmc.artifact.program import StepInputs
from llmc.base.errors import LlmcError
from llmc.codegen.contract import Build
from llmc.codegen.cpu.backend import CompiledCpu, ConfiguredCpu
from llmc.codegen.cpu.packing import PANEL16
from llmc.codegen.registry import find_backend
from llmc.ir.graph import Graph, StateGroup, Value
from llmc.ir.interpreter import interpret
from llmc.ir.ops import (
    CACHE_BLOCK,
    Attention,
    CacheWrite,
    Call,
    Embedding,
    Linear,
    LogitsRows,
    Norm,
    Op,
    PagedAttention,
    Reshape,
    Rotary,
    Slice,
    Unary,
)
from llmc.ir.phase import Phase
from llmc.ir.roles import State, StepArray, Table, without_number
from llmc.ir.states.key_value import KeyValueGeometry
from llmc.ir.types import DType, R, S, Sym, T, TensorType
from llmc.passes.quantize import SCHEMES
from llmc.runtime.executors import cpu
from llmc.weights.table import WeightTable
from llmc.weights.values import RecipeValues

LIMITS = Limits(
    max_tokens=48, max_sequences=4, max_context=160, max_logits_rows=4, block_size=CACHE_BLOCK
)
TARGET = ConfiguredCpu(SCHEMES["f32"], ("portable",))
HIDDEN, HEADS, KV_HEADS, DIM, MLP, VOCAB = 48, 4, 2, 12, 72, 50
LAYERS = 3


def weight(name: str, *shape: int, scale: float = 0.3, dtype: DType = DType.F32) -> Value:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    value = torch.randn(*shape, generator=generator) * scale
    return constant(name, value, dtype)


def out(graph: Graph, op: Op, *inputs: Value) -> Value:
    return graph.append(op, inputs, scope=f"toy.{op.mnemonic}").outputs[0]


def layer(graph: Graph, x: Value, tables: dict, weights: dict, pools: tuple, cache: tuple) -> Value:
    """One layer of `graph`: per-head norm of the keys, partial rotary, gated MLP."""
    h = out(graph, Norm("rms_norm", 1e-5), x, weights["norm1"])
    qkv = out(graph, Linear(bias=True), h, weights["qkv"], weights["qkv_bias"])
    width = HEADS * DIM
    sizes = [(0, width, HEADS), (width, width + KV_HEADS * DIM, KV_HEADS)]
    sizes.append((sizes[1][1], sizes[1][1] + KV_HEADS * DIM, KV_HEADS))
    q, k, v = (
        out(graph, Reshape((T, n, DIM)), out(graph, Slice(-1, a, b), qkv)) for a, b, n in sizes
    )
    k = out(graph, Norm("rms_norm", 1e-6), k, weights["key_norm"])
    q = out(graph, Rotary(8), q, tables["cos"], tables["sin"])
    write = graph.append(CacheWrite(rotary=8), [k, v, *pools, *cache, tables["cos"], tables["sin"]])
    y = out(graph, PagedAttention(DIM**-0.5, window=40), q, *write.outputs, *cache)
    y = out(graph, Reshape((T, width)), y)
    x = out(graph, Linear(residual=True), y, weights["out"], x)
    total, h = graph.append(
        Norm("rms_norm", 1e-5, add=True), [x, h, weights["norm2"]]
    ).outputs  # the residual of the norm is h, to have a second use of it
    gated = out(graph, Linear(act="silu", gated=True, out=MLP), h, weights["gate_up"])
    return out(graph, Linear(residual=True), gated, weights["down"], total)


def layer_weights(i: int, dtype: DType) -> dict[str, Value]:
    padded = -(-MLP // 16) * 16
    qkv = (HEADS + 2 * KV_HEADS) * DIM
    return {
        "norm1": weight(f"{i}.norm1", HIDDEN),
        "qkv": weight(f"{i}.qkv", qkv, HIDDEN, dtype=dtype),
        "qkv_bias": weight(f"{i}.qkv_bias", qkv),
        "key_norm": weight(f"{i}.key_norm", DIM),
        "out": weight(f"{i}.out", HIDDEN, HEADS * DIM, dtype=dtype),
        "norm2": weight(f"{i}.norm2", HIDDEN),
        "gate_up": weight(f"{i}.gate_up", 2 * padded, HIDDEN, dtype=dtype),
        "down": weight(f"{i}.down", HIDDEN, MLP, dtype=dtype),
    }


def serving_inputs(graph: Graph) -> dict[str, Value]:
    i32 = DType.I32
    shapes = {
        "token_ids": (T,),
        "positions": (T,),
        "query_start": (Sym("S1"),),
        "context_len": (S,),
        "logits_rows": (R,),
    }
    found = {n: graph.add_input(n, TensorType(i32, s), StepArray(n)) for n, s in shapes.items()}
    table = TensorType(i32, (S, Sym("B")))
    found["block_table.0"] = graph.add_input("block_table.0", table, Table(0))
    kept = KeyValueGeometry(40, KV_HEADS, DIM, DIM, DType.F32)
    graph.groups.append(StateGroup("0", "paged", kept, list(range(LAYERS))))
    for i in range(LAYERS):
        for kind in ("key", "value"):
            name = f"{kind}_pool.{i}"
            pool = TensorType(DType.F32, (Sym("P0"), CACHE_BLOCK, KV_HEADS, DIM))
            found[name] = graph.add_input(name, pool, State(f"{kind}_pool", i))
    return found


def toy(rolled: bool, dtype: DType = DType.F32) -> Graph:
    graph = Graph("main", Phase.SERVING)
    given = serving_inputs(graph)
    embed = weight("embed", VOCAB, HIDDEN, dtype=dtype)
    x = out(graph, Embedding(), embed, given["token_ids"])
    angle = out(graph, Embedding(), weight("angles", 160, 4, scale=3.0), given["positions"])
    tables = {"cos": out(graph, Unary("cos"), angle), "sin": out(graph, Unary("sin"), angle)}
    cache = tuple(given[n] for n in ("query_start", "context_len", "block_table.0"))
    body = None
    for i in range(LAYERS):
        pools = (given[f"key_pool.{i}"], given[f"value_pool.{i}"])
        weights = layer_weights(i, dtype)
        if not rolled:
            x = layer(graph, x, tables, weights, pools, cache)
            continue
        operands = [x, *tables.values(), *weights.values(), *pools, *cache]
        if body is None:
            body = body_of(operands, tables, weights)
            graph.bodies["layer"] = body
        call = Call("layer", tuple(v.type for v in body.outputs))
        x = graph.append(call, operands).outputs[0]
    x = out(graph, Norm("rms_norm", 1e-5), x, weight("final", HIDDEN))
    rows = out(graph, LogitsRows(), x, given["logits_rows"])
    graph.outputs = [out(graph, Linear(softcap=20.0), rows, embed)]
    return graph


def body_of(operands: list[Value], tables: dict, weights: dict) -> Graph:
    body = Graph("layer", Phase.SERVING)
    names = ["x", *tables, *weights, "key_pool", "value_pool"]
    names += ["query_start", "context_len", "block_table"]
    inputs = {
        n: body.add_input(n, v.type, without_number(v.role))
        for n, v in zip(names, operands, strict=True)
    }
    pools = (inputs["key_pool"], inputs["value_pool"])
    cache = tuple(inputs[n] for n in ("query_start", "context_len", "block_table"))
    body.outputs = [layer(body, inputs["x"], inputs, inputs, pools, cache)]
    return body


BUILD = Build(RecipeValues(None))  # type: ignore[arg-type]  # libraries hold no weights
Programs = dict[str, tuple[Graph, CompiledCpu, bytes]]


@pytest.fixture(scope="session")
def programs(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Graph, CompiledCpu, bytes]]:
    """Three compiles: the toy rolled, unrolled, and in int4."""
    folder = tmp_path_factory.mktemp("toy")
    graphs = {"rolled": toy(True), "flat": toy(False), "int4": toy(True, DType.I4A)}
    built = {}
    for name, graph in graphs.items():
        lowered = TARGET.lower(graph, LIMITS, WeightTable(PANEL16))
        path = folder / f"{name}.so"
        lowered.build(runnable_levels()[-1], path, BUILD)
        built[name] = (graph, lowered, path.read_bytes())
    return built


def start(lowered: CompiledCpu, library: bytes, threads: int) -> cpu.CpuExecutor:
    variant = Variant(
        target="cpu", level="", program="", weights="", limits=lowered.limits,
        cache_groups=lowered.cache_groups, memory_plan=lowered.memory_plan,
        vocab_size=lowered.vocab_size,
    )  # fmt: skip
    weights = pack_weights(list(lowered.program.weights.tensors), lowered.program.weights.nbytes)
    return cpu.CpuExecutor(variant, library, weights.data, threads=threads, cache_blocks=(24,))


def session_steps() -> list[StepInputs]:
    """Three sequences: prefill in two uneven chunks, then decode past the window of 40."""
    generator = np.random.default_rng(3)
    tables = generator.permutation(24)[:9].reshape(3, 3).astype(np.int32)
    done = np.zeros(3, np.int32)
    steps = []
    for lengths in ([20, 1, 7], [24, 2, 22], *[[1, 1, 1]] * 3, [1, 37, 1]):
        count = np.array(lengths, np.int32)
        start = np.concatenate(([0], np.cumsum(count))).astype(np.int32)
        positions = np.concatenate([np.arange(d, d + n) for d, n in zip(done, count, strict=True)])
        done = (done + count).astype(np.int32)
        ids = generator.integers(0, VOCAB, start[-1]).astype(np.int32)
        rows = np.unique(np.append(start[1:] - 1, 0)).astype(np.int32)
        steps.append(
            StepInputs(
                ids.tolist(),
                positions.tolist(),
                start.tolist(),
                done.tolist(),
                rows.tolist(),
                [tables.tolist()],
            )
        )
    return steps


def reference_logits(graph: Graph, steps: list[StepInputs]) -> list[torch.Tensor]:
    pools = {
        v.name: torch.full((24, CACHE_BLOCK, KV_HEADS, DIM), float("nan"))
        for v in graph.inputs
        if "pool" in v.name
    }
    results = []
    for step in steps:
        arrays = {n: getattr(step, n) for n in StepInputs.__struct_fields__ if n != "block_tables"}
        inputs = {n: torch.tensor(a, dtype=torch.int32) for n, a in arrays.items()}
        inputs["block_table.0"] = torch.tensor(step.block_tables[0], dtype=torch.int32)
        results.append(interpret(graph, inputs | pools, constant_tensor)[0])
    return results


@pytest.mark.parametrize("name", ["rolled", "flat", "int4"])
def test_matches_the_interpreter(programs: Programs, name: str) -> None:
    graph, lowered, library = programs[name]
    program = start(lowered, library, threads=2)
    steps = session_steps()
    for step, want in zip(steps, reference_logits(graph, steps), strict=True):
        result = program.step(step)
        got = torch.from_numpy(result.logits.copy())
        # The int4 reference multiplies unquantized activations; its error is theirs (8 bits).
        tolerance = 1e-5 if name != "int4" else 0.1
        span = float(want.max() - want.min())
        assert float((got - want).abs().max()) <= tolerance * span
        assert result.argmax == got.argmax(-1).tolist()
    program.close()


@pytest.mark.parametrize("name", ["rolled", "int4"])
def test_results_do_not_depend_on_threads_or_batch(programs: Programs, name: str) -> None:
    """Bitwise: four threads and one; and a sequence alone and among others."""
    _, lowered, library = programs[name]
    steps = session_steps()
    runs = []
    for threads in (1, 4):
        program = start(lowered, library, threads)
        runs.append([program.step(step).logits.copy() for step in steps])
        program.close()
    for one, four in zip(*runs, strict=True):
        assert (one == four).all()
    program = start(lowered, library, 2)
    for number, step in enumerate(steps):
        alone = program.step(only_sequence(step, 2)).logits
        assert (alone[-1] == runs[0][number][-1]).all()


def only_sequence(step: StepInputs, s: int) -> StepInputs:
    a, b = step.query_start[s], step.query_start[s + 1]
    return StepInputs(
        step.token_ids[a:b],
        step.positions[a:b],
        [0, b - a],
        step.context_len[s : s + 1],
        [b - a - 1],
        [step.block_tables[0][s : s + 1]],
    )


def test_source_is_small_and_deterministic(programs: Programs) -> None:
    _, rolled, _ = programs["rolled"]
    _, flat, _ = programs["flat"]
    assert rolled.source == TARGET.lower(toy(True), LIMITS, WeightTable(PANEL16)).source
    assert rolled.source.count("paged_attention<") + rolled.source.count("paged_attention(") == 1
    assert flat.source.count("paged_attention(") == LAYERS
    assert rolled.source.count("body_layer(team, s, body_layer_calls[") == LAYERS
    # Slices of the merged projection are views: keys start behind the four query heads.
    qkv = (HEADS + 2 * KV_HEADS) * DIM
    assert f"rms_norm_heads(team, s.T, 2, 12, b1 + 48, {qkv}" in rolled.source


def test_rolled_and_flat_share_the_layout_of_weights(programs: Programs) -> None:
    tensors = [programs[name][1].program.weights.tensors for name in ("rolled", "flat")]
    assert [(t.name, t.offset, t.nbytes) for t in tensors[0]] == [
        (t.name, t.offset, t.nbytes) for t in tensors[1]
    ]
    ends = [t.offset + t.nbytes for t in tensors[0]]
    assert all(t.offset % 64 == 0 for t in tensors[0])
    assert all(e <= t.offset for e, t in zip(ends[:-1], tensors[0][1:], strict=True))
    assert sum(t.name.startswith("embed") for t in tensors[0]) == 1  # tied head


def test_memory_is_near_its_lower_bound(programs: Programs) -> None:
    for name in ("rolled", "flat", "int4"):
        program = programs[name][1].program
        for planned in (program.main, *(b.planned for b in program.bodies)):
            assert planned.plan.arena_bytes <= 1.15 * planned.plan.largest_live


def test_unsupported_op_is_refused_by_name() -> None:
    graph = Graph("main", Phase.SERVING)
    given = serving_inputs(graph)
    x = out(graph, Embedding(), weight("embed", VOCAB, HIDDEN), given["token_ids"])
    heads = out(graph, Reshape((T, 4, 12)), x)
    dense = graph.append(Attention(1.0), [heads] * 3, "model.layers.0.attn", "modeling_x.py:12")
    flat = out(graph, Reshape((T, HIDDEN)), dense.output)
    graph.outputs = [out(graph, LogitsRows(), flat, given["logits_rows"])]
    with pytest.raises(LlmcError, match=r"attention in model.layers.0.attn, modeling_x.py:12") as e:
        TARGET.lower(graph, LIMITS, WeightTable(PANEL16))
    assert e.value.id == "LLMC-E0401"


def test_unknown_target_is_refused() -> None:
    with pytest.raises(LlmcError) as e:
        find_backend("abacus")
    assert e.value.id == "LLMC-E0203"
