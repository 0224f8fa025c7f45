"""Launches of norms, experts and tokens, as the emitters choose them, against the references."""

from __future__ import annotations

import pytest
import torch
from launched_program import LaunchedProgram
from llmc.artifact.choice import Choice
from llmc.artifact.device_choice import RESULT, pack, packed_bytes, read_results
from llmc.codegen import views
from llmc.codegen.triton.emit_norm import norm_tiles
from llmc.codegen.triton.emit_sampling import emit_argmax, emit_sampling
from llmc.codegen.triton.emitters import emit_node
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import CombineExperts, Norm, RouteTokens
from llmc.ir.types import DType, R, Sym, T, TensorType
from llmc.runtime.engine.sampling.numpy_sampling import draw_row


def f32(*shape: int | Sym) -> Value:
    return Value(TensorType(DType.F32, shape))


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fn", ["rms_norm", "layer_norm"])
@pytest.mark.parametrize("quantize", [False, True])
def test_norms_with_all_operands(fn: str, quantize: bool) -> None:
    tokens, n = 3, 40
    op = Norm(fn, 1e-5, weight=True, bias=True, add=True, quantize=quantize)
    graph = Graph()
    values = [f32(T, n), f32(T, n), f32(n), f32(n)]
    node = graph.append(op, values)
    run = LaunchedProgram(graph, {"T": tokens})
    tensors = [random(i, *([tokens, n] if i < 2 else [n])) for i in range(4)]
    for value, tensor in zip(values, tensors, strict=True):
        run.give(value, tensor)
    emit_node(run.program, node)
    (step,) = run.program.schedule.steps
    assert len(step.in_place) == (1 if quantize else 2)
    run.run(tokens)
    want = op.reference(*tensors)
    for value, one in zip(node.outputs, want, strict=True):
        got = run.tensor(value)
        codes = got.dtype == torch.int8  # one that lies between two may fall either way
        atol = 1 if codes else 0.05 if quantize and value is node.outputs[-1] else 1e-5
        torch.testing.assert_close(got.float(), one.float(), rtol=1e-5, atol=atol)


def test_norms_of_heads_read_a_part_of_wider_rows() -> None:
    tokens, heads, size, wide = 3, 2, 24, 100
    op = Norm("rms_norm", 1e-6)
    graph = Graph()
    x, weight = f32(T, heads, size), f32(size)
    node = graph.append(op, [x, weight])
    run = LaunchedProgram(graph, {"T": tokens})
    fused = random(1, tokens, wide)
    whole = run.program.keep("fused", TensorType(DType.F32, (T, wide)))
    part = views.slice_dim(whole, 1, 8, heads * size, 1)
    joined = views.reshape(part, (T, heads, size))
    assert joined is not None
    run.give(f32(T, wide), fused, "fused")
    run.give(weight, random(2, size))
    run.program.views[x] = joined
    emit_node(run.program, node)
    assert len(run.program.launches) == 1  # nothing is copied
    run.run(tokens)
    want = op.reference(fused[:, 8 : 8 + heads * size].view(tokens, heads, size), random(2, size))
    assert isinstance(want, torch.Tensor)
    torch.testing.assert_close(run.tensor(node.output), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [16, 128, 576, 640, 4096, 8192, 14336, 100_000])
def test_tiles_keep_rows_in_registers(n: int) -> None:
    tiles = norm_tiles(n)
    assert tiles.rows * tiles.block_n >= 512
    assert tiles.block_n >= min(n, 8192)
    assert tiles.rows * tiles.block_n <= 32 * 32 * tiles.num_warps


def test_experts_there_and_back() -> None:
    tokens, k, experts, n = 5, 2, 4, 24
    graph = Graph()
    index, x, weights = Value(TensorType(DType.I64, (T, k))), f32(Sym("T", k), n), f32(T, k)
    route = graph.append(RouteTokens(experts), [index])
    combine = graph.append(CombineExperts(), [x, route.outputs[2], weights])
    run = LaunchedProgram(graph, {"T": tokens})
    chosen = random(0, tokens, experts).topk(k).indices
    results, shares = random(1, tokens * k, n), random(2, tokens, k)
    for value, tensor in ((index, chosen), (x, results), (weights, shares)):
        run.give(value, tensor)
    for node in (route, combine):
        emit_node(run.program, node)
    run.run(tokens)
    want = RouteTokens(experts).reference(chosen)
    for value, one in zip(route.outputs, want, strict=True):
        assert torch.equal(run.tensor(value), one)
    sums = CombineExperts().reference(results, want[2], shares)
    torch.testing.assert_close(run.tensor(combine.output), sums, rtol=1e-6, atol=1e-6)


def test_argmax_and_drawn_tokens() -> None:
    rows, vocab = 3, 150
    graph = Graph()
    logits = f32(R, vocab)
    graph.outputs = [logits]
    run = LaunchedProgram(graph, {"T": rows, "R": rows}, rows=rows)
    x = random(4, rows, vocab) * 3
    run.give(logits, x, "logits")
    emit_argmax(run.program)
    emit_sampling(run.program)
    choices = [
        Choice(row=2, temperature=0.7, top_k=5, uniform=0.5, top=3),
        Choice(row=0, forbidden=[int(x[0].argmax())]),
    ]
    words = run.program.kept["choices"].nbytes // 4
    block = bytearray(4 * words)
    assert packed_bytes(choices, rows) <= len(block)
    pack(choices, memoryview(block), rows)
    packed = torch.frombuffer(block, dtype=torch.int32)
    run.give(Value(TensorType(DType.I32, (words,))), packed, "choices")
    run.run(rows)
    assert run.kept("argmax", TensorType(DType.I32, (R,))).tolist() == x.argmax(1).tolist()
    results = run.kept("results", TensorType(DType.I32, (R, RESULT.size // 4)))
    read_results(choices, memoryview(results.numpy().tobytes()))
    tokens = run.kept("tokens", TensorType(DType.I32, (R,))).tolist()
    for choice in choices:
        want = Choice(
            row=choice.row, temperature=choice.temperature, top_k=choice.top_k,
            uniform=choice.uniform, forbidden=choice.forbidden, top=choice.top,
        )  # fmt: skip
        draw_row(x[choice.row].numpy().copy(), want)
        assert choice.token == want.token == tokens[choice.row]
        assert choice.logprob == pytest.approx(want.logprob, abs=1e-5)
        assert [i for i, _ in choice.alternatives] == [i for i, _ in want.alternatives]
