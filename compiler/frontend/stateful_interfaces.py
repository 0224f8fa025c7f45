"""Our functions in place of those that transformers lets kernels replace.

Mixers that keep a state of fixed size (convolutions, scans, delta rules) are functions of a model's
own file, decorated so that a package with kernels can stand in for them. While a model is traced,
ours do: what has a state becomes one `llmc::` node, and everything around it (time steps, decays,
norms, skips, gates) is spelled out, to be traced as the ordinary arithmetic that it is.

Functions are found by the decorator's own record of the name that kernels know them by, never by
model. Their schemas are closed, as those of `interfaces.py`: an argument that is not understood and
not neutral stops the compile. A decorated function that isn't in the table stays as it is.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN

from ...base.errors import LlmcError


@torch.library.custom_op("llmc::causal_conv", mutates_args=())
def causal_conv_op(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, silu: bool
) -> torch.Tensor:
    """x [1, T, C] → [1, T, C]: see `ir.ops.CausalConv`; traced, never run."""
    raise RuntimeError("llmc::causal_conv is only traced")


@causal_conv_op.register_fake
def _(x, weight, bias, silu):
    return x.new_empty(x.shape)


@torch.library.custom_op("llmc::linear_recurrence", mutates_args=())
def linear_recurrence_op(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    decay: torch.Tensor,
    beta: torch.Tensor | None,
) -> torch.Tensor:
    """v [1, T, H, V] → [1, T, H, V]: see `ir.ops.LinearRecurrence`; traced, never run."""
    raise RuntimeError("llmc::linear_recurrence is only traced")


@linear_recurrence_op.register_fake
def _(q, k, v, decay, beta):
    return v.new_empty(v.shape)


@torch.library.custom_op("llmc::selective_scan", mutates_args=())
def selective_scan_op(
    x: torch.Tensor, dt: torch.Tensor, b: torch.Tensor, c: torch.Tensor, a: torch.Tensor
) -> torch.Tensor:
    """x [1, T, D] → [1, T, D]: see `ir.ops.SelectiveScan`; traced, never run."""
    raise RuntimeError("llmc::selective_scan is only traced")


@selective_scan_op.register_fake
def _(x, dt, b, c, a):
    return x.new_empty(x.shape)


# ── functions: their parameters are those of the torch code that they stand in for ─────────────


def _causal_conv(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
) -> torch.Tensor:
    """hidden_states [1, C, T], weight [C, K], bias [C] → [1, C, T]."""
    silu = activation in ("silu", "swish")
    y = causal_conv_op(hidden_states.transpose(1, 2), weight, bias, silu).transpose(1, 2)
    return y if silu or activation is None else ACT2FN[activation](y)


def _delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    use_qk_l2norm_in_kernel: bool = False,
    output_final_state: bool = False,
) -> tuple[torch.Tensor, None]:
    """query, key [1, T, G, K], value [1, T, H, V], g (log of decay) [1, T, H] or [1, T, H, K],
    beta [1, T, H] → [1, T, H, V] and no final state."""
    _refuse_final_state(output_final_state)
    if use_qk_l2norm_in_kernel:
        query, key = (x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (query, key))
    query = query * key.shape[-1] ** -0.5
    return linear_recurrence_op(query, key, value, g.exp(), beta), None


def _chunk_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
) -> torch.Tensor:
    """Mamba 2: hidden_states [1, T, H, P], dt [1, T, H], A, D, dt_bias [H], B, C [1, T, G, N]."""
    _refuse_final_state(return_final_states)
    dt = _time_steps(dt, dt_bias, dt_softplus)
    if not dt_softplus or dt_limit[0] > 0:  # softplus is never negative
        dt = dt.clamp(min=dt_limit[0])
    if dt_limit[1] < float("inf"):
        dt = dt.clamp(max=dt_limit[1])
    y = linear_recurrence_op(C, B, hidden_states * dt[..., None], torch.exp(A * dt), None)
    return y if D is None else y + hidden_states * D[:, None]


def _selective_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> torch.Tensor:
    """Mamba: hidden_states, dt, z [1, D, T], A [D, N], B, C [1, N, T], D, delta_bias [D]."""
    _refuse_final_state(return_last_state)
    x, dt, B, C = (value.transpose(1, 2) for value in (hidden_states, dt, B, C))
    y = selective_scan_op(x, _time_steps(dt, delta_bias, delta_softplus), B, C, A)
    if D is not None:
        y = y + x * D
    if z is not None:
        y = y * F.silu(z.transpose(1, 2))
    return y.transpose(1, 2)


def _time_steps(dt: torch.Tensor, bias: torch.Tensor | None, softplus: bool) -> torch.Tensor:
    """Positive numbers of what a layer computed for the last dimension's channels or heads."""
    dt = dt if bias is None else dt + bias
    return F.softplus(dt) if softplus else dt


def _refuse_final_state(asked: bool) -> None:
    if asked:
        raise LlmcError("LLMC-E0413", "a model asks for a final state, without a cache")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "causal_conv1d_fn": _causal_conv,
    "chunk_gated_delta_rule": _delta_rule,
    "fused_recurrent_gated_delta_rule": _delta_rule,
    "chunk_kda": _delta_rule,
    "fused_recurrent_kda": _delta_rule,
    "mamba_chunk_scan_combined": _chunk_scan,
    "selective_scan_fn": _selective_scan,
}
"""By the name under which kernels replace a function."""
_NEUTRAL = {"chunk_size", "use_mambapy", "use_associative_scan"}
"""Arguments that say how something is computed, not what."""
_PACKED = {"cu_seqlens", "seq_idx"}
"""Arguments that say where a sequence ends, which the torch code refuses by itself."""


def _replacement(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Our function behind the original's parameters.

    What the original has no parameter for never reaches it: the decorator leaves that out.

    Raises:
        LlmcError: LLMC-E0413, an argument that we don't know isn't None or the original's default.
    """
    ours, theirs = _FUNCTIONS[name], inspect.signature(original)
    known = inspect.signature(ours).parameters

    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        read = {k: v for k, v in kwargs.items() if k in theirs.parameters}
        bound = theirs.bind(*args, **read).arguments
        unread = {k: v for k, v in kwargs.items() if k in _PACKED}
        unknown = sorted(
            argument
            for argument, value in {**bound, **unread}.items()
            if argument not in known
            and argument not in _NEUTRAL
            and value is not None
            and value is not getattr(theirs.parameters.get(argument), "default", None)
        )
        if unknown:
            raise LlmcError("LLMC-E0413", f"{name} is called with arguments {unknown}")
        return ours(**{key: value for key, value in bound.items() if key in known})

    return replacement


def kernel_name(function: Any) -> str | None:
    """The name under which kernels may replace a module's function; None if they may not.

    `use_kernel_func_from_hub_with_fallback` leaves it in the closure of what it makes.
    """
    while inspect.isfunction(function):
        names = function.__code__.co_freevars
        if "func_name" in names and "torch_function" in names:
            assert function.__closure__ is not None
            return function.__closure__[names.index("func_name")].cell_contents
        function = getattr(function, "__wrapped__", None)
    return None


def _functions(model: torch.nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """(module's names, name, function) of all functions in the files that `model` is made of."""
    names = dict.fromkeys(type(module).__module__ for module in model.modules())
    for name in names:
        if name.partition(".")[0] != "torch" and name in sys.modules:
            space = vars(sys.modules[name])
            yield from ((space, key, f) for key, f in list(space.items()) if inspect.isfunction(f))


@contextlib.contextmanager
def stateful_functions(model: torch.nn.Module) -> Iterator[None]:
    """While this is entered, our functions stand in for those of the model's files."""
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for space, key, function in _functions(model):
            name = kernel_name(function)
            if name in _FUNCTIONS:
                replaced.append((space, key, function))
                space[key] = _replacement(name, inspect.unwrap(function))
        yield
    finally:
        _restore(replaced)


def _restore(replaced: Iterable[tuple[dict[str, Any], str, Any]]) -> None:
    for space, key, function in replaced:
        space[key] = function
