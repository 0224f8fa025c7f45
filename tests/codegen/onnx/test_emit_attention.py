"""Writes into slots and attention over them against their references.

Sequences of every length in one run: first tokens, long pasts, padding behind what a row brings.
Caches hold finite garbage where nothing was written, as a served cache does.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from llmc.ir.graph import Graph
from llmc.ir.ops import LENGTH, SlotAttention, SlotWrite
from llmc.ir.types import DType, S, T, TensorType
from onnx_harness import expected, run

pytestmark = pytest.mark.fast

SHAPES = [(1, 1), (1, 7), (3, 1), (4, 11)]
"""Sequences, and query tokens of each."""
PLAIN = SlotAttention(scale=0.3)
VARIANTS = {
    "plain": PLAIN,
    "window": replace(PLAIN, window=5),
    "softcap": replace(PLAIN, softcap=2.0),
    "rotary": replace(PLAIN, rotary=8),
    "interleaved": replace(PLAIN, rotary=12, interleaved=True, window=3),
    "sinks": replace(PLAIN, sinks=True),
    "slopes": replace(PLAIN, slopes=True),
    "everything": replace(PLAIN, window=4, softcap=1.5, sinks=True, slopes=True, rotary=12),
}


def graph_of(op: SlotAttention, heads: int, kv_heads: int, widths: tuple[int, int]) -> Graph:
    """Two sites, so that what layers share is shared; the second one's caches are separate."""
    g, (key, value) = Graph(), widths

    def given(name: str, *shape: object, dtype: DType = DType.F32):
        return g.add_input(name, TensorType(dtype, shape))  # type: ignore[arg-type]

    start = given("start", S, dtype=DType.I32)
    tables = [given(n, T, op.rotary // 2) for n in ("cos", "sin")] if op.rotary else []
    by_head = [given(name, heads) for name in ("sinks", "slopes") if getattr(op, name)]
    for i in range(2):
        q, k = given(f"q{i}", T, heads, key), given(f"k{i}", T, kv_heads, key)
        v = given(f"v{i}", T, kv_heads, value)
        caches = [
            given(f"{name}_cache.{i}", S, kv_heads, LENGTH, width)
            for name, width in (("key", key), ("value", value))
        ]
        write = g.append(SlotWrite(op.rotary, op.interleaved), [k, v, *caches, start, *tables])
        attention = g.append(op, [q, *write.outputs, start, *by_head, *tables])
        g.outputs += [*write.outputs, attention.output]
    return g


def inputs_of(graph: Graph, sequences: int, query: int, length: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(sequences * 100 + query)
    sizes = {"S": sequences, "T": sequences * query, "L": length}
    result = {}
    for value in graph.inputs:
        shape = [d if isinstance(d, int) else sizes[d.name] for d in value.type.shape]
        result[value.name] = torch.randn(shape, generator=generator)
    starts = torch.randint(0, length - query + 1, (sequences,), generator=generator)
    starts[0] = 0
    starts[-1] = length - query
    result["start"] = starts.int()
    return result


@pytest.mark.parametrize(("sequences", "query"), SHAPES)
@pytest.mark.parametrize("name", VARIANTS)
def test_slots(name: str, sequences: int, query: int) -> None:
    graph = graph_of(VARIANTS[name], 4, 2, (12, 12))
    inputs = inputs_of(graph, sequences, query, 37)
    for got, want in zip(run(graph, inputs), expected(graph, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "widths"), [
    (3, 3, (24, 10)), (6, 1, (8, 40)), (5, 5, (1, 1)),
])  # fmt: skip
def test_odd_heads(heads: int, kv_heads: int, widths: tuple[int, int], sinks: bool) -> None:
    graph = graph_of(replace(PLAIN, sinks=sinks), heads, kv_heads, widths)
    inputs = inputs_of(graph, 3, 5, 19)
    for got, want in zip(run(graph, inputs), expected(graph, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
