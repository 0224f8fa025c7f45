"""Our functions in transformers' attention, mask and experts interfaces.

While a model is traced, every attention call becomes one `llmc::attention` node,
every mask one `llmc::mask` tag (or, in models that spell attention out, one
`llmc::additive_mask`), and every experts module a few `llmc::` nodes around
the model's own gating code. Schemas are closed: an argument that is not understood
and not neutral stops the compile, because swallowing it changes results silently.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import masking_utils
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...base.errors import LlmcError
from .masks import both_directions, window_of

NAME = "llmc"
"""The implementation name under which the functions are registered."""
EAGER = "eager"
"""The implementation of models that spell attention out (`passes/raise_attention.py`)."""

_NEUTRAL = {"dropout", "output_attentions", "output_router_logits", "use_cache", "position_ids",
            "cache_position", "layer_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q",
            "max_length_k", "num_items_in_batch", "return_dict",
            "output_hidden_states"}  # fmt: skip
"""Attention arguments that don't change the result of causal inference."""


@torch.library.custom_op("llmc::attention", mutates_args=())
def attention_op(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    sinks: torch.Tensor | None,
    choice: torch.Tensor | None,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    """q [1, T, H, D], k, v [1, T, H_kv, D] → [1, T, H, Dv]; traced, never run.

    `choice` [1, T, n]: positions of the keys that each query sees; None: all that `mask` leaves.
    """
    raise RuntimeError("llmc::attention is only traced")


@attention_op.register_fake
def _(q, k, v, mask, sinks, choice, scale, softcap):
    return q.new_empty((*q.shape[:-1], v.shape[-1]))


@torch.library.custom_op("llmc::mask", mutates_args=())
def mask_op(anchor: torch.Tensor, window: int, refused: str) -> torch.Tensor:
    """A tag: causal mask, with `window` > 0 a sliding one; traced, never run.

    `refused`: why nothing may read it, if it is of another kind, and behind a newline what to do.
    Decoders of encoder-decoder models make such a mask for states that aren't there.
    """
    raise RuntimeError("llmc::mask is only traced")


@mask_op.register_fake
def _(anchor, window, refused):
    return anchor.new_empty((1, 1, 1, 1), dtype=torch.bool)


@torch.library.custom_op("llmc::additive_mask", mutates_args=())
def additive_mask_op(anchor: torch.Tensor, tokens: int, window: int, refused: str) -> torch.Tensor:
    """The mask [1, 1, tokens, tokens] that spelled-out attention adds; traced, never run."""
    raise RuntimeError("llmc::additive_mask is only traced")


@additive_mask_op.register_fake
def _(anchor, tokens, window, refused):
    return anchor.new_empty((1, 1, tokens, tokens))


_LIBRARY = torch.library.Library("llmc", "FRAGMENT")
_LIBRARY.define("linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor")


@torch.library.impl(_LIBRARY, "linear", "Meta")
def _(input, weight, bias=None):
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


linear_op = torch.ops.llmc.linear.default
"""`aten::linear` with a matrix, as one operator (`lean_export.py`); traced, never run."""


@torch.library.custom_op("llmc::route", mutates_args=())
def route_op(index: torch.Tensor, experts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `ir.ops.RouteTokens`; traced, never run."""
    raise RuntimeError("llmc::route is only traced")


@route_op.register_fake
def _(index, experts):
    rows = index.new_empty((index.shape[0] * index.shape[1],), dtype=torch.int32)
    return rows, rows.new_empty((experts + 1,)), index.new_empty(index.shape, dtype=torch.int32)


@torch.library.custom_op("llmc::grouped_linear", mutates_args=())
def grouped_linear_op(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    row_index: torch.Tensor | None,
    offsets: torch.Tensor,
) -> torch.Tensor:
    """See `ir.ops.GroupedLinear`; traced, never run."""
    raise RuntimeError("llmc::grouped_linear is only traced")


@grouped_linear_op.register_fake
def _(x, weight, bias, row_index, offsets):
    rows = x.shape[0] if row_index is None else row_index.shape[0]
    return x.new_empty((rows, weight.shape[1]))


@torch.library.custom_op("llmc::combine", mutates_args=())
def combine_op(x: torch.Tensor, slot: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """See `ir.ops.CombineExperts`; traced, never run."""
    raise RuntimeError("llmc::combine is only traced")


@combine_op.register_fake
def _(x, slot, weights):
    return x.new_empty((slot.shape[0], x.shape[1]))


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    indices: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """q, k, v are [1, H, T, D] as transformers passes them; the result is [1, T, H, Dv].

    `sliding_window` is what flash kernels need; as in eager attention the mask decides.
    """
    unknown = sorted(k for k, v in kwargs.items() if v is not None and k not in _NEUTRAL)
    if unknown:
        raise LlmcError(
            "LLMC-E0413", f"{type(module).__name__} passes attention arguments {unknown}"
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not causal:
        raise both_directions(f"{type(module).__name__} attends without a causal mask")
    if attention_mask is None:
        raise LlmcError("LLMC-E0414", f"{type(module).__name__} attends without a causal mask")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    cap = float(softcap or 0.0)
    return attention_op(q, k, v, attention_mask, s_aux, indices, scale, cap), None


def _mask(*, mask_function: Callable = masking_utils.causal_mask_function, **kwargs: Any):
    return mask_op(torch.empty(0, device="meta"), *_kind(mask_function, kwargs))


def _additive_mask(
    *, q_length: int, mask_function: Callable = masking_utils.causal_mask_function, **kwargs: Any
) -> torch.Tensor:
    return additive_mask_op(torch.empty(0, device="meta"), q_length, *_kind(mask_function, kwargs))


def _kind(mask_function: Callable, kwargs: dict[str, Any]) -> tuple[int, str]:
    """The window of a mask, and why nothing may read it."""
    try:
        return window_of(mask_function, kwargs), ""
    except LlmcError as error:
        return 0, f"{error.message}\n{error.hint}"


def _experts(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Experts as grouped linears around the model's own gate; [T, hidden] → [T, hidden]."""
    up = module.gate_up_proj if module.has_gate else module.up_proj
    prefix = "gate_up_proj" if module.has_gate else "up_proj"
    up_bias = getattr(module, f"{prefix}_bias") if module.has_bias else None
    down_bias = module.down_proj_bias if module.has_bias else None
    down = module.down_proj
    if module.is_transposed:
        up, down = up.transpose(1, 2), down.transpose(1, 2)
    row_index, offsets, slot = route_op(top_k_index, up.shape[0])
    y = grouped_linear_op(hidden_states, up, up_bias, row_index, offsets)
    y = module._apply_gate(y) if module.has_gate else module.act_fn(y)
    y = grouped_linear_op(y, down, down_bias, None, offsets)
    if getattr(module, "has_post_expert_norm", False):
        y = module.post_expert_norm(y)
    return combine_op(y, slot, top_k_weights.to(y.dtype)).to(hidden_states.dtype)


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
ALL_EXPERTS_FUNCTIONS.register(NAME, _experts)


@contextlib.contextmanager
def single_sequence() -> Iterator[None]:
    """Keep transformers from reading packing out of `position_ids`: a trace is one sequence."""
    original = getattr(masking_utils, "find_packed_sequence_indices", None)
    if original is None:
        yield
        return
    masking_utils.find_packed_sequence_indices = lambda *args, **kwargs: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = original


@contextlib.contextmanager
def spelled_out_masks() -> Iterator[None]:
    """Tag the masks of models that compute attention themselves (`passes/raise_attention.py`)."""
    original = ALL_MASK_ATTENTION_FUNCTIONS[EAGER]
    ALL_MASK_ATTENTION_FUNCTIONS.register(EAGER, _additive_mask)
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS.register(EAGER, original)
