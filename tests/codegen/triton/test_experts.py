"""Routing and combining against the ops' references, in Triton's interpreter, and as cubins.

Routing is whole numbers: exactly the reference. Combining adds the same products in the same
order; a GPU may round a product and a sum at once, so does torch here and there (1e-6).
"""

from __future__ import annotations

import pytest
import torch
from compiled_kernels import SMS, spilled_bytes
from interpreted_kernels import interpreted
from llmc.codegen.triton.kernels import experts as compiled
from llmc.ir.ops import CombineExperts, RouteTokens

POISON = -7


def route(index: torch.Tensor, experts: int, block: int) -> tuple[torch.Tensor, ...]:
    tokens, k = index.shape
    rows, offsets, slot = (
        torch.full(shape, POISON, dtype=torch.int32)
        for shape in ((tokens * k,), (experts + 1,), (tokens, k))
    )
    interpreted("experts").route_tokens[(experts,)](
        index, rows, offsets, slot, tokens, k, experts, block, PORTABLE=True
    )
    return rows, offsets, slot


def choices(tokens: int, k: int, experts: int, seed: int) -> torch.Tensor:
    """Different experts for every token, some of them much liked."""
    generator = torch.Generator().manual_seed(seed)
    liking = torch.randn(experts, generator=generator) * 2
    return (liking + torch.randn((tokens, experts), generator=generator)).topk(k).indices


@pytest.mark.parametrize(
    ("tokens", "k", "experts"), [(1, 1, 1), (1, 2, 3), (7, 2, 5), (13, 4, 8), (33, 3, 6)]
)
@pytest.mark.parametrize("element", [torch.int32, torch.int64])
def test_routes_are_the_references(tokens: int, k: int, experts: int, element: torch.dtype) -> None:
    index = choices(tokens, k, experts, tokens).to(element)
    for got, want in zip(
        route(index, experts, 16), RouteTokens(experts).reference(index), strict=True
    ):
        assert torch.equal(got, want)


def test_all_tokens_may_choose_one_expert() -> None:
    index = torch.full((9, 1), 2, dtype=torch.int32)
    rows, offsets, slot = route(index, 4, 4)
    assert rows.tolist() == list(range(9)) == slot[:, 0].tolist()
    assert offsets.tolist() == [0, 0, 0, 9, 9]


@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "k", "n"), [(1, 1, 5), (3, 2, 40), (5, 4, 33)])
def test_combined_rows_are_the_references(
    tokens: int, k: int, n: int, element: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn((tokens * k, n), generator=generator).to(element)
    weights = torch.rand((tokens, k), generator=generator)
    slot = torch.randperm(tokens * k, generator=generator).view(tokens, k).int()
    out = torch.full((tokens, n + 2), float("nan"))
    interpreted("experts").combine_experts[(tokens, -(-n // 16))](
        x, slot, weights, out, n, n + 2, n, k, 16, PORTABLE=True
    )
    want = CombineExperts().reference(x.float(), slot, weights)
    torch.testing.assert_close(out[:, :n], want, rtol=1e-6, atol=1e-6)
    assert out[:, n:].isnan().all()
    alone = torch.full((1, n), float("nan"))
    interpreted("experts").combine_experts[(1, -(-n // 16))](
        x, slot[-1:], weights[-1:], alone, n, n, n, k, 16, PORTABLE=True
    )
    assert torch.equal(alone[0], out[-1, :n])


@pytest.mark.parametrize("sm", SMS)
def test_cubins_spill_nothing(sm: int) -> None:
    types = dict.fromkeys(("index_ptr", "row_index_ptr", "offsets_ptr", "slot_ptr"), "*i32")
    constants = {"K": 8, "EXPERTS": 128, "BLOCK": 1024, "PORTABLE": sm < 90}
    assert spilled_bytes(compiled.route_tokens, {**types, "tokens": "i32"}, constants, sm, 4) == 0
    types = {"x_ptr": "*bf16", "slot_ptr": "*i32", "weight_ptr": "*fp32", "out_ptr": "*fp32"}
    sizes = {"X_STRIDE": 2048, "OUT_STRIDE": 2048, "N": 2048, "K": 8, "BLOCK_N": 512}
    constants = {**sizes, "PORTABLE": sm < 90}
    assert spilled_bytes(compiled.combine_experts, types, constants, sm, 4) == 0
