"""References against independent formulas: what each composite op means, not only its shape."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from llmc.ir.ops import (  # fmt: skip
    TORCH_DTYPE,
    Attention,
    CacheWrite,
    CombineExperts,
    GroupedLinear,
    HeadLinear,
    LatentAttention,
    LatentWrite,
    Linear,
    Norm,
    PagedAttention,
    PagedLatentAttention,
    QuantizeRows,
    Rotary,
    RouteTokens,
    SlotAttention,
    SlotWrite,
    TopK,
)
from llmc.ir.ops.cache_codes import decode, encode_keys, encode_values, pool_widths, rotate
from llmc.ir.ops.latent_codes import decode_latents, encode_latents, latent_width
from llmc.ir.types import DType

pytestmark = pytest.mark.fast

# float32, the same formula in another order of sums: a few units in the last place.
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(11)


@pytest.mark.parametrize("window", [0, 3])
def test_attention_is_scaled_dot_product_attention(window: int) -> None:
    q, k, v = torch.randn(7, 4, 8), torch.randn(7, 2, 8), torch.randn(7, 2, 6)
    i, j = torch.arange(7).unsqueeze(1), torch.arange(7)
    mask = (j <= i) & (j > i - (window or 99))
    expected = F.scaled_dot_product_attention(
        q.transpose(0, 1), k.repeat_interleave(2, 1).transpose(0, 1),
        v.repeat_interleave(2, 1).transpose(0, 1), mask, scale=0.3,
    ).transpose(0, 1)  # fmt: skip
    close(Attention(0.3, window).reference(q, k, v), expected)


def test_sinks_take_their_share_of_the_softmax() -> None:
    """The first token sees itself only: its weight is 1 / (1 + exp(sink - score))."""
    q, k, v, sinks = (
        torch.randn(1, 2, 4),
        torch.randn(1, 2, 4),
        torch.randn(1, 2, 4),
        torch.randn(2),
    )
    score = (q * k).sum(-1) * 0.5
    expected = v * torch.sigmoid(score - sinks).unsqueeze(-1)
    actual = Attention(0.5, sinks=True).reference(q, k, v, sinks)
    close(actual, expected)


def test_slopes_grow_with_the_distance() -> None:
    """Scores of 0: weights are powers of exp(slope), whatever the position of the query."""
    slopes = torch.tensor([0.5, 0.25, 1.0, 0.0])
    q, k, v = torch.zeros(6, 4, 8), torch.randn(6, 2, 8), torch.randn(6, 2, 6)
    distance = torch.arange(6).unsqueeze(1) - torch.arange(6)
    weights = torch.exp(-slopes.view(-1, 1, 1) * distance) * (distance >= 0)
    weights /= weights.sum(-1, keepdim=True)
    expected = torch.einsum("hij,jhd->ihd", weights, v.repeat_interleave(2, 1))
    close(Attention(0.3, slopes=True).reference(q, k, v, slopes), expected)


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("rotary", [0, 4])
@pytest.mark.parametrize("cache", [DType.F32, DType.BF16, DType.I8])
def test_paged_attention_is_attention_of_each_sequence(
    window: int, rotary: int, cache: DType
) -> None:
    """Two sequences in one step, each with a past, equal the last rows of dense attention."""
    lengths, new = (72, 3), (2, 3)
    poison = torch.full((4, 64, 2, 1), -1, dtype=torch.int8)  # all bits set: NaN
    pools = [
        poison.expand(-1, -1, -1, width * cache.itemsize).contiguous().view(TORCH_DTYPE[cache])
        for width in pool_widths(cache, 8, 8)
    ]
    table = torch.tensor([[2, 0], [3, -1]])
    slopes = torch.rand(4)
    write = CacheWrite(rotary)
    paged = PagedAttention(0.4, window, slopes=True, rotary=rotary)
    q, k, v = ([torch.randn(n, h, 8) for n in lengths] for h in (4, 2, 2))
    angle = [torch.randn(n, 2) for n in lengths]

    def rows(parts: list[torch.Tensor], counts: tuple[int, ...], past: bool) -> torch.Tensor:
        cut = [n - m for n, m in zip(lengths, counts, strict=True)]
        return torch.cat([p[:c] if past else p[c:] for p, c in zip(parts, cut, strict=True)])

    def step(past: bool, counts: tuple[int, int], context: tuple[int, int]):
        meta = (torch.tensor([0, counts[0], sum(counts)]), torch.tensor(context), table)
        a = rows(angle, new, past)
        tables = (a.cos(), a.sin()) if rotary else ()
        pools[:] = write.reference(rows(k, new, past), rows(v, new, past), *pools, *meta, *tables)
        return paged.reference(rows(q, new, past), *pools, *meta, slopes, *tables)

    step(True, (70, 0), (70, 0))
    actual = step(False, new, lengths)
    dense = []
    for s in range(2):
        query, key = q[s], k[s]
        if rotary:
            turn = Rotary(rotary)
            query, key = (turn.reference(x, angle[s].cos(), angle[s].sin()) for x in (query, key))
        whole = Attention(0.4, window, slopes=True)
        dense.append(whole.reference(query, key, v[s], slopes)[-new[s] :])
    # Elements off by 2^-9 of themselves, codes by 1/254 of the head's largest element.
    tolerance = {DType.F32: 1e-5, DType.BF16: 0.03, DType.I8: 0.06}[cache]
    torch.testing.assert_close(actual, torch.cat(dense), rtol=0, atol=tolerance)


@pytest.mark.parametrize("rope", [0, 4])
def test_latent_attention_is_attention_with_projected_keys_and_values(rope: int) -> None:
    """Heads that are multiplied with their matrices before and after, against keys and values that
    are made of the latent for every head."""
    q, c, beside = torch.randn(7, 3, 6 + rope), torch.randn(7, 5), torch.randn(7, 1, rope)
    up, down, sinks = torch.randn(3, 6, 5), torch.randn(3, 4, 5), torch.randn(3)
    keys = torch.cat((torch.einsum("hdr,tr->thd", up, c), beside.expand(-1, 3, -1)), -1)
    values = torch.einsum("hdr,tr->thd", down, c)
    expected = Attention(0.3, 4, 5.0, sinks=True).reference(q, keys, values, sinks)
    inner = HeadLinear().reference(q[..., :6], up.mT)
    parts = (q[..., 6:], beside) if rope else ()
    latent = LatentAttention(0.3, 4, 5.0, sinks=True, rope=bool(rope))
    summed = latent.reference(inner, c, *parts, sinks)
    close(HeadLinear().reference(summed, down), expected)


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize(("rope", "rotary"), [(0, 0), (4, 0), (4, 4), (6, 4)])
@pytest.mark.parametrize("cache", [DType.F32, DType.BF16, DType.I8])
def test_paged_latent_attention_is_that_of_each_sequence(
    window: int, rope: int, rotary: int, cache: DType
) -> None:
    """Two sequences in one step, each with a past, equal the last rows of dense attention."""
    lengths, new = (72, 3), (2, 3)
    width = latent_width(cache, 8, rope) * cache.itemsize
    pool = torch.full((4, 64, width), -1, dtype=torch.int8).view(TORCH_DTYPE[cache])  # NaN
    table = torch.tensor([[2, 0], [3, -1]])
    write = LatentWrite(rope > 0, rotary, interleaved=True)
    paged = PagedLatentAttention(0.4, window, rope=rope > 0, rotary=rotary, interleaved=True)
    q, c, q_rope, k_rope, angle = (
        [torch.randn(n, *shape) for n in lengths]
        for shape in ((4, 8), (8,), (4, rope), (1, rope), (2,))
    )

    def rows(parts: list[torch.Tensor], past: bool) -> torch.Tensor:
        cut = [n - m for n, m in zip(lengths, new, strict=True)]
        return torch.cat([p[:k] if past else p[k:] for p, k in zip(parts, cut, strict=True)])

    def step(past: bool, counts: tuple[int, int], context: tuple[int, int]) -> torch.Tensor:
        meta = (torch.tensor([0, counts[0], sum(counts)]), torch.tensor(context), table)
        a = rows(angle, past)
        tables = (a.cos(), a.sin()) if rotary else ()
        beside = [(rows(k_rope, past),), (rows(q_rope, past),)] if rope else [(), ()]
        pool[:] = write.reference(pool, rows(c, past), *beside[0], *meta, *tables)
        return paged.reference(rows(q, past), *beside[1], pool, *meta, *tables)

    step(True, (70, 0), (70, 0))
    actual = step(False, new, lengths)
    dense = []
    for s in range(2):
        parts = [q_rope[s], k_rope[s]] if rope else []
        if rotary:
            cos, sin = angle[s].cos(), angle[s].sin()
            parts = [Rotary(rotary, True).reference(x, cos, sin) for x in parts]
        latent = LatentAttention(0.4, window, rope=rope > 0)
        dense.append(latent.reference(q[s], c[s], *parts)[-new[s] :])
    # Elements off by 2^-9 of themselves, codes by 1/240 of the largest of 16 elements.
    tolerance = {DType.F32: 1e-5, DType.BF16: 0.03, DType.I8: 0.06}[cache]
    torch.testing.assert_close(actual, torch.cat(dense), rtol=0, atol=tolerance)


def test_codes_of_latents_are_read_as_keys_and_as_values() -> None:
    """What is turned back is off by half a code of each of 16 elements; one part is a thousand
    times the other's size, and neither rounds the other. Zeros stay."""
    c, k = torch.randn(20, 37), torch.randn(20, 8) / 1000
    c[3], k[3] = 0, 0
    stored = encode_latents(c, k, DType.I8)
    assert stored.shape == (20, latent_width(DType.I8, 37, 8))
    keys, values = decode_latents(stored, 37)
    half = values.abs().amax(-1, keepdim=True) / 121 / 2  # the largest code is 122 to 127
    assert ((rotate(values)[:, :37] - c).abs() <= 16 * half + 1e-6).all()
    assert torch.equal(keys[:, :48], values)
    assert (keys[3] == 0).all()
    restored = rotate(keys[:, 48:])[:, :8]
    close(restored, k, rtol=0, atol=1e-4)


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("rotary", [0, 4])
@pytest.mark.parametrize("cache", [DType.F32, DType.BF16, DType.F16])
def test_slot_attention_is_attention_of_each_sequence(
    window: int, rotary: int, cache: DType
) -> None:
    """Two sequences of different pasts, one of them padded, equal rows of dense attention."""
    pasts, new, query = (17, 4), (3, 1), 3
    dtype = TORCH_DTYPE[cache]
    caches = [torch.full((2, 2, 23, width), float("nan"), dtype=dtype) for width in (8, 6)]
    slopes = torch.rand(4)
    write = SlotWrite(rotary)
    attend = SlotAttention(0.4, window, slopes=True, rotary=rotary)
    q, k, v = ([torch.randn(20, h, w) for _ in pasts] for h, w in ((4, 8), (2, 8), (2, 6)))
    angle = [torch.randn(20, 2) for _ in pasts]

    def run(begin: tuple[int, int], count: int) -> torch.Tensor:
        def rows(parts: list[torch.Tensor]) -> torch.Tensor:
            return torch.cat([p[b : b + count] for p, b in zip(parts, begin, strict=True)])

        tables = (rows(angle).cos(), rows(angle).sin()) if rotary else ()
        start = torch.tensor(begin)
        caches[:] = write.reference(rows(k), rows(v), *caches, start, *tables)
        return attend.reference(rows(q), *caches, start, slopes, *tables)

    run((0, 0), 4)
    run((4, 0), 13)  # the second sequence runs ahead: what it leaves behind is overwritten
    k[1][4:17] = torch.randn(13, 2, 8)
    actual = run(pasts, query).unflatten(0, (2, query))
    for s in range(2):
        h, x = q[s], k[s]
        if rotary:
            turn = Rotary(rotary)
            h, x = (turn.reference(y, angle[s].cos(), angle[s].sin()) for y in (h, x))
        whole = Attention(0.4, window, slopes=True)
        dense = whole.reference(h, x, v[s], slopes)[pasts[s] :][: new[s]]
        tolerance = {DType.F32: 1e-5, DType.BF16: 0.03, DType.F16: 0.004}[cache]
        torch.testing.assert_close(actual[s, : new[s]], dense, rtol=0, atol=tolerance)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_is_a_complex_product(interleaved: bool) -> None:
    x, angle = torch.randn(5, 2, 10), torch.randn(5, 3)
    head = x[..., :6]
    pairs = (head[..., 0::2], head[..., 1::2]) if interleaved else head.chunk(2, -1)
    turned = torch.complex(*pairs) * torch.polar(torch.ones(()), angle).unsqueeze(1)
    parts = (turned.real, turned.imag)
    y = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    actual = Rotary(6, interleaved).reference(x, angle.cos(), angle.sin())
    close(actual, torch.cat((y, x[..., 6:]), -1))


def test_gated_linear_reads_alternating_panels() -> None:
    x, gate, up = torch.randn(3, 8), torch.randn(20, 8), torch.randn(20, 8)
    padded = [F.pad(w, (0, 0, 0, 12)).unflatten(0, (2, 16)) for w in (gate, up)]
    weight = torch.stack(padded, 1).flatten(0, 2)
    actual = Linear(gated=True, act="silu", out=20).reference(x, weight)
    close(actual, F.silu(x @ gate.T) * (x @ up.T))


def test_the_epilogue_runs_in_order() -> None:
    """Activation, then residual, then soft cap."""
    x, w, b, r = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5), torch.randn(3, 5)
    op = Linear(bias=True, residual=True, act="gelu", softcap=2.0)
    expected = 2 * torch.tanh((r + F.gelu(x @ w.T + b)) / 2)
    close(op.reference(x, w, b, r), expected)


def test_quantized_rows_are_close_and_round_to_even() -> None:
    x = torch.randn(4, 40)
    q, scale, total = QuantizeRows().reference(x)
    back = (q.unflatten(-1, (2, 32)) * scale.unsqueeze(-1)).flatten(-2)
    steps = scale.repeat_interleave(32, -1)[:, :40]
    assert ((back[:, :40] - x).abs() <= steps / 2 * 1.0001).all()
    assert not back[:, 40:].any()
    close(total, back.unflatten(-1, (2, 32)).sum(-1))
    half = torch.zeros(1, 32)
    half[0, :4] = torch.tensor([127.0, 0.5, 1.5, -2.5])
    assert QuantizeRows().reference(half)[0][0, :4].tolist() == [127, 0, 2, -2]
    zeros = QuantizeRows().reference(torch.zeros(1, 32))
    assert not any(t.any() for t in zeros)


def test_a_norm_can_add_and_quantize() -> None:
    x, r, w = torch.randn(4, 64), torch.randn(4, 64), torch.randn(64)
    expected = F.rms_norm(x + r, (64,), w, 1e-5)
    total, *rows = Norm("rms_norm", 1e-5, add=True, quantize=True).reference(x, r, w)
    torch.testing.assert_close(total, x + r)
    for actual, wanted in zip(rows, QuantizeRows().reference(expected), strict=True):
        torch.testing.assert_close(actual.float(), wanted.float(), rtol=1e-5, atol=1.0 * (
            actual.dtype == torch.int8))  # a value on the border of two codes  # fmt: skip


@pytest.mark.parametrize("gather", [False, True])
def test_experts_routed_and_combined_equal_a_loop(gather: bool) -> None:
    """Sorting by expert and combining gives Σ weight * expert(token) for every token."""
    x, w, b = torch.randn(6, 8), torch.randn(3, 5, 8), torch.randn(3, 5)
    choice = torch.stack([torch.randperm(3)[:2] for _ in range(6)])
    share = torch.rand(6, 2)
    row_index, offsets, slot = RouteTokens(3).reference(choice)
    assert (row_index.diff()[choice.flatten().sort(stable=True).values.diff() == 0] >= 0).all()
    rows = (x, w, b, row_index) if gather else (x[row_index], w, b)
    y = GroupedLinear(bias=True, gather=gather).reference(*rows, offsets)
    actual = CombineExperts().reference(y, slot, share)
    expected = torch.stack([
        torch.stack([share[t, j] * (w[e] @ x[t] + b[e]) for j, e in enumerate(choice[t])]).sum(0)
        for t in range(6)
    ])  # fmt: skip
    close(actual, expected)


def test_equal_values_come_in_the_order_of_their_index() -> None:
    values, index = TopK(3).reference(torch.tensor([[1.0, 2.0, 1.0, 2.0]]))
    assert values.tolist() == [[2, 2, 1]]
    assert index.tolist() == [[1, 3, 0]]


def test_an_int8_cache_holds_keys_and_values_to_half_a_step() -> None:
    """Also keys with one dimension far larger than the others, zeros, and tiny values."""
    x = torch.randn(6, 2, 24)
    x[0], x[1, :, 3], x[2] = 0, 300.0, x[2] * 1e-30
    for encode in (encode_keys, encode_values):
        back = decode(encode(x, DType.I8))
        wanted = x
        if encode is encode_keys:
            back, wanted = back * 32, rotate(x)  # 24 dimensions become 32
        step = wanted.abs().amax(-1, keepdim=True) / 127
        # Powers of two for values: up to twice the step, and nothing below 2^-60.
        step = step * (1 if encode is encode_keys else 2) + 2.0**-60
        assert ((back - wanted).abs() <= 0.5001 * step).all()


def test_rotation_keeps_products() -> None:
    q, k = torch.randn(5, 80), torch.randn(7, 80)
    torch.testing.assert_close(rotate(q) @ rotate(k).T / 16, q @ k.T, rtol=1e-4, atol=1e-4)
