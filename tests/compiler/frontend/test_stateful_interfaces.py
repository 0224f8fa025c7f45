"""Functions that kernels may replace: ours compute what the torch code does, or refuse."""

import inspect
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from llmc.base.errors import LlmcError
from llmc.compiler.frontend import stateful_interfaces as ours
from llmc.ir.ops import CausalConv, LinearRecurrence, SelectiveScan
from transformers.models.kimi_linear import modeling_kimi_linear as kimi
from transformers.models.mamba import modeling_mamba as mamba
from transformers.models.mamba2 import modeling_mamba2 as mamba2
from transformers.models.qwen3_next import modeling_qwen3_next as qwen

TOKENS = 37
CHUNK = 16
"""So that a chunk is cut off."""


@pytest.fixture(autouse=True)
def computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that are only traced compute what the IR's references do; seeds."""
    torch.manual_seed(3)

    def one(op: Any, *inputs: torch.Tensor | None) -> torch.Tensor:
        rows = [None if x is None else x[0] if i < op.rows else x for i, x in enumerate(inputs)]
        return op.reference(*[x for x in rows if x is not None])[None]

    def conv(x, weight, bias, silu):
        return one(CausalConv(bias is not None, silu), x, weight, bias)

    def recurrence(q, k, v, decay, beta):
        return one(LinearRecurrence(beta is not None), q, k, v, decay, beta)

    monkeypatch.setattr(ours, "causal_conv_op", conv)
    monkeypatch.setattr(ours, "linear_recurrence_op", recurrence)
    monkeypatch.setattr(ours, "selective_scan_op", lambda *x: one(SelectiveScan(), *x))


def check(function: Any, *args: Any, **kwargs: Any) -> None:
    """Ours gives what the torch code does: chunked sums in another order, a few roundings more."""
    name = ours.kernel_name(function)
    assert name is not None
    expected = function(*args, **kwargs)
    actual = ours._replacement(name, inspect.unwrap(function))(*args, **kwargs)
    if isinstance(expected, tuple):
        assert actual[1] is None
        expected, actual = expected[0], actual[0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_causal_convolution(activation: str | None, bias: bool) -> None:
    x, weight = torch.randn(1, 6, TOKENS), torch.randn(6, 4)
    check(qwen.causal_conv1d_fn, x, weight, torch.randn(6) if bias else None, activation)


@pytest.mark.parametrize("norm", [True, False])
def test_the_gated_delta_rule_with_shared_keys(norm: bool) -> None:
    q, k = (F.normalize(torch.randn(1, TOKENS, 2, 8), dim=-1) for _ in range(2))
    v, g = torch.randn(1, TOKENS, 4, 6), -torch.rand(1, TOKENS, 4)
    rule, beta = qwen.torch_chunk_gated_delta_rule, torch.rand(1, TOKENS, 4)
    check(rule, q, k, v, g=g, beta=beta, chunk_size=CHUNK, use_qk_l2norm_in_kernel=norm)


def test_a_delta_rule_with_a_decay_for_each_key_channel() -> None:
    q, k = torch.randn(1, TOKENS, 2, 8), torch.randn(1, TOKENS, 2, 8)
    v, g = torch.randn(1, TOKENS, 2, 6), -torch.rand(1, TOKENS, 2, 8)
    rule, beta = kimi.chunk_kimi_delta_attention, torch.rand(1, TOKENS, 2)
    check(rule, q, k, v, g=g, beta=beta, chunk_size=CHUNK, use_qk_l2norm_in_kernel=True)


@pytest.mark.parametrize("limit", [(0.0, float("inf")), (0.5, float("inf")), (0.3, 0.9)])
@pytest.mark.parametrize("softplus", [True, False])
def test_a_chunked_scan_with_groups(limit: tuple[float, float], softplus: bool) -> None:
    """The time steps of two channels are below the lower limit, without softplus below 0."""
    x, dt = torch.randn(1, TOKENS, 4, 6), torch.randn(1, TOKENS, 4)
    b, c = torch.randn(1, TOKENS, 2, 8), torch.randn(1, TOKENS, 2, 8)
    check(
        mamba2.mamba2_chunk_scan, x, dt, -torch.rand(4) - 0.1, b, c, CHUNK, D=torch.randn(4),
        z=None, dt_bias=torch.randn(4), dt_softplus=softplus, dt_limit=limit,
        return_final_states=False,
    )  # fmt: skip


@pytest.mark.parametrize("gate", [True, False])
def test_a_selective_scan(gate: bool) -> None:
    x, dt, z = (torch.randn(1, 6, TOKENS) for _ in range(3))
    b, c = torch.randn(1, 4, TOKENS), torch.randn(1, 4, TOKENS)
    check(
        mamba.mamba_selective_scan, x, dt, -torch.rand(6, 4) - 0.1, b, c, D=torch.randn(6),
        z=z if gate else None, delta_bias=torch.randn(6), delta_softplus=True,
    )  # fmt: skip


@pytest.mark.parametrize("argument", [{"initial_state": torch.zeros(1, 4, 8, 6)},
                                      {"cu_seqlens": torch.tensor([0, 5])}])  # fmt: skip
def test_an_unknown_argument_is_refused(argument: dict[str, Any]) -> None:
    """What the torch code reads, or raises for; what never reaches it does no harm."""
    function = qwen.torch_chunk_gated_delta_rule
    rule = ours._replacement("chunk_gated_delta_rule", inspect.unwrap(function))
    x, by_head = torch.randn(1, 5, 4, 8), torch.rand(1, 5, 4)
    rule(x, x, x, -by_head, by_head, position_ids=torch.arange(5), initial_state=None)
    with pytest.raises(LlmcError, match=next(iter(argument))) as caught:
        rule(x, x, x, -by_head, by_head, **argument)
    assert caught.value.id == "LLMC-E0413"


def test_a_final_state_is_refused() -> None:
    function = mamba2.mamba2_chunk_scan
    scan = ours._replacement("mamba_chunk_scan_combined", inspect.unwrap(function))
    x, groups = torch.randn(1, 5, 2, 3), torch.randn(1, 5, 1, 4)
    with pytest.raises(LlmcError, match="final state") as caught:
        scan(x, x[..., 0], -torch.rand(2), groups, groups, CHUNK, return_final_states=True)
    assert caught.value.id == "LLMC-E0413"


def test_functions_are_replaced_only_meanwhile() -> None:
    """In the files of a model's modules, by the name that kernels know; others stay."""
    model = torch.nn.Sequential(mamba2.Mamba2RMSNorm(4))
    space = vars(sys.modules[mamba2.__name__])
    before = dict(space)

    def look_and_fail() -> None:
        changed.update(key for key, value in before.items() if space[key] is not value)
        raise RuntimeError("stop")

    changed: set[str] = set()
    with pytest.raises(RuntimeError, match="stop"), ours.stateful_functions(model):
        look_and_fail()
    assert changed == {"causal_conv1d_fn", "mamba2_chunk_scan"}
    assert space == before
    assert ours.kernel_name(mamba2.apply_mask_to_padding_states) is None
