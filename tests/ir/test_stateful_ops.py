"""Mixers with state: what they mean, and that a sequence in parts is the sequence."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from llmc.ir.bodies import body_of
from llmc.ir.ops import (
    CausalConv,
    CausalConvUpdate,
    LinearRecurrence,
    LinearRecurrenceUpdate,
    Recurrence,
    RecurrenceUpdate,
    SelectiveScan,
    SelectiveScanUpdate,
)
from llmc.ir.ops.stateful import Mixer, Update
from llmc.ir.parser import parse
from llmc.ir.types import DType, TensorType

pytestmark = pytest.mark.fast

# float32, the same formula in another order of sums: a few units in the last place.
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


@pytest.mark.parametrize("silu", [False, True])
def test_a_causal_convolution_is_a_padded_one(silu: bool) -> None:
    x, weight, bias = torch.randn(11, 6), torch.randn(6, 4), torch.randn(6)
    expected = F.conv1d(F.pad(x.T[None], (3, 0)), weight[:, None], bias, groups=6)[0].T
    close(CausalConv(True, silu).reference(x, weight, bias), F.silu(expected) if silu else expected)


def test_a_linear_recurrence_without_delta_is_masked_attention() -> None:
    """y_t = sum over s <= t of (q_t . k_s) * product of decays after s * v_s."""
    q, k = torch.randn(9, 2, 5), torch.randn(9, 2, 5)
    v, decay = torch.randn(9, 4, 3), torch.rand(9, 4)
    logs = decay.log().cumsum(0)
    visible = torch.ones(9, 9).tril()[:, :, None]
    weights = torch.einsum("tgk,sgk->tsg", q, k).repeat_interleave(2, 2)
    weights = weights * visible * torch.exp((logs[:, None] - logs[None]) * visible)
    close(LinearRecurrence().reference(q, k, v, decay), torch.einsum("tsh,shv->thv", weights, v))


def test_a_decay_for_each_key_channel_may_be_one_for_the_head() -> None:
    q, k, v = torch.randn(5, 2, 4), torch.randn(5, 2, 4), torch.randn(5, 2, 3)
    decay = torch.rand(5, 2)
    each = decay[:, :, None].expand(5, 2, 4)
    op = LinearRecurrence()
    close(op.reference(q, k, v, each), op.reference(q, k, v, decay))


def test_the_delta_rule_replaces_what_a_key_had() -> None:
    """Without decay, with beta 1 and a unit key, reading with the key gives the latest value."""
    k = F.normalize(torch.randn(6, 1, 8), dim=-1)
    k[5] = k[2]
    v, ones = torch.randn(6, 1, 4), torch.ones(6, 1)
    close(LinearRecurrence(delta=True).reference(k, k, v, ones, ones), v)


def test_a_selective_scan_is_a_sum_over_the_past() -> None:
    x, dt, a = torch.randn(7, 3), torch.rand(7, 3), -torch.rand(3, 2)
    b, c = torch.randn(7, 2), torch.randn(7, 2)
    total = dt.cumsum(0)
    y = torch.zeros(7, 3)
    for t in range(7):
        for s in range(t + 1):
            fade = torch.exp((total[t] - total[s])[:, None] * a)
            y[t] += (fade * b[s] * c[t]).sum(1) * dt[s] * x[s]
    close(SelectiveScan().reference(x, dt, b, c, a), y)


def decaying_sum() -> Recurrence:
    """h ← tanh(w h) * decay + x; the results are h before a token, and x + h after it."""
    graph = parse(
        """
        graph step: TRACED
        input x: f32[T, 6]
        input decay: f32[T, 1]
        input w: f32[6, 6]
        input h: f32[T, 6]
        %0: f32[T, 6] = linear(h, w)
        %1: f32[T, 6] = tanh(%0)
        %2: f32[T, 6] = mul(%1, decay)
        %3: f32[T, 6] = add(%2, x)
        %4: f32[T, 6] = add(%3, x)
        output %3
        output h
        output %4
        """
    )
    return Recurrence(body_of(graph), 2)


def test_a_recurrence_runs_its_body_on_one_token_after_the_other() -> None:
    x, decay, w = torch.randn(7, 6), torch.rand(7, 1), torch.randn(6, 6)
    before, after = decaying_sum().reference(x, decay, w)
    h = torch.zeros(6)
    for t in range(7):
        close(before[t], h)
        h = torch.tanh(w @ h) * decay[t] + x[t]
        close(after[t], h + x[t])


def _inputs(op: Mixer, tokens: int) -> tuple[torch.Tensor, ...]:
    if isinstance(op, CausalConv):
        return torch.randn(tokens, 6), torch.randn(6, 4), torch.randn(6)
    if isinstance(op, Recurrence):
        return torch.randn(tokens, 6), torch.rand(tokens, 1), torch.randn(6, 6)
    if isinstance(op, SelectiveScan):
        x, b = torch.randn(2, tokens, 3), torch.randn(2, tokens, 2)
        return x[0], x[1].abs(), b[0], b[1], -torch.rand(3, 2)
    q, k, v = torch.randn(tokens, 2, 5), torch.randn(tokens, 2, 5), torch.randn(tokens, 4, 3)
    return q, F.normalize(k, dim=-1), v, torch.rand(tokens, 4), torch.rand(tokens, 4)


CASES = [
    (CausalConv(True, True), CausalConvUpdate(True, True)),
    (LinearRecurrence(True), LinearRecurrenceUpdate(True)),
    (SelectiveScan(), SelectiveScanUpdate()),
    (decaying_sum(), RecurrenceUpdate(decaying_sum().body, 2)),
]


@pytest.mark.parametrize(("mixer", "update"), CASES)
def test_a_sequence_in_parts_is_the_whole_one(mixer: Mixer, update: Update) -> None:
    """Two sequences in slots 2 and 0, the one in parts of 1, 5 and 7 tokens; poisoned slots."""
    lengths = (13, 9)
    given = [_inputs(mixer, n) for n in lengths]
    rows = mixer.rows
    constants = given[0][rows:]
    types = [TensorType(DType.F32, tuple(x.shape)) for x in given[0]]
    states = [torch.full((3, *s), float("nan")) for s in mixer.state_shapes(*types)]
    results: list[list[tuple[torch.Tensor, ...]]] = [[], []]
    for spans in ([(0, 1), (0, 4)], [(1, 6), (4, 5)], [(6, 13), (5, 9)]):
        parts = [
            torch.cat([g[i][a:b] for g, (a, b) in zip(given, spans, strict=True)])
            for i in range(rows)
        ]
        starts = torch.tensor([0, spans[0][1] - spans[0][0], len(parts[0])])
        ends, slots = torch.tensor([b for _, b in spans]), torch.tensor([2, 0])
        made = update.reference(*parts, *constants, *states, starts, ends, slots)
        states, y = list(made[: len(states)]), made[len(states) :]
        for s in range(2):
            results[s].append(tuple(each[starts[s] : starts[s + 1]] for each in y))
    for s in range(2):
        whole = mixer.reference(*given[s][:rows], *constants)
        whole = whole if isinstance(whole, tuple) else (whole,)
        for ours, all_at_once in zip(zip(*results[s], strict=True), whole, strict=True):
            # (torch itself vectorizes silu by the number of rows)
            close(torch.cat(ours), all_at_once)
    assert all(state[1].isnan().all() for state in states)
