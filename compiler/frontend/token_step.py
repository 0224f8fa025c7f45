"""The trace of a model that computes token by token: its own step from one token to the next.

    states after, logits = model(one token, its position, states before)

A model whose whole sequences can't be traced (they loop over tokens, or compute in blocks of them)
still has a step, which it takes when it generates. It is traced for one sequence, so that all sizes
are numbers; `passes/spread_tokens.py` lets it run on all tokens of a step. What a token finds of
the token before it (`carried.py`) is an input, what it leaves is an output;
`passes/raise_recurrence.py` makes recurrences of them. Attention's keys and values are those of the
token, as in a trace of a whole sequence.
"""

from __future__ import annotations

from typing import Any

import torch

from ...base.errors import LlmcError
from . import interfaces
from .buffers import compute_buffers
from .carried import Carried, find_carried
from .lean_export import LinearCalls, lean_export
from .trace import LiteralNumbers, Traced, build_on_meta, export, quiet


@torch.library.custom_op("llmc::carried", mutates_args=())
def carried_op(anchor: torch.Tensor, number: int, shape: list[int], initial: float) -> torch.Tensor:
    """What a token finds of part `number`, `initial` before the first; traced, never run."""
    raise RuntimeError("llmc::carried is only traced")


@carried_op.register_fake
def _(anchor, number, shape, initial):
    return anchor.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("llmc::counter", mutates_args=())
def counter_op(anchor: torch.Tensor) -> torch.Tensor:
    """A tensor that counts steps of the cache; traced, never run, and refused if it is read."""
    raise RuntimeError("llmc::counter is only traced")


@counter_op.register_fake
def _(anchor):
    return anchor.new_empty((1,), dtype=torch.int64)


class _TokenStep(torch.nn.Module):
    """The traced call: token id and position [1, 1] → logits [1, 1, vocab] and the new parts."""

    def __init__(self, model: Any, carried: Carried) -> None:
        super().__init__()
        self.model = model
        self.carried = carried

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with LiteralNumbers(), LinearCalls():
            parts = [
                carried_op(token_ids, number, list(part.shape), part.initial)
                for number, part in enumerate(self.carried.parts)
            ]
            counter = counter_op(token_ids)
            logits, after = self.carried.step(self.model, token_ids, positions, parts, counter)
        return logits, *after


def trace_token_step(config: Any, max_context: int) -> Traced:
    """Trace the step of the causal language model of `config` from one token to the next.

    Raises:
        LlmcError: as `trace` does; LLMC-E0430, it keeps no state that is found.
    """
    model = build_on_meta(config)
    buffers, notes = compute_buffers(model, max_context)
    with quiet(), interfaces.single_sequence():
        carried = _carried(model)
        program = export(model, lambda: _exported(model, carried))
    _require_attention(model, program, carried.updates)
    notes.append("traced as a step from token to token: what has no kernel runs so")
    return Traced(program, model, buffers, notes, max_context, carried.factors)


def _carried(model: Any) -> Carried:
    """What a call leaves for the next one, found by calling.

    Raises:
        LlmcError: LLMC-E0430, as `find_carried` does, or a call needs values that meta tensors
            don't have.
    """
    try:
        return find_carried(model)
    except LlmcError:
        raise
    except Exception as error:  # whatever model code does with such tensors
        raise LlmcError(
            "LLMC-E0430",
            f"{type(model).__name__} can't take one token by shapes alone: {type(error).__name__}",
        ) from error


def _require_attention(model: Any, program: torch.export.ExportedProgram, updates: int) -> None:
    """Every cache of keys and values must be that of an attention node.

    Raises:
        LlmcError: LLMC-E0430.
    """
    attention = torch.ops.llmc.attention.default
    if sum(node.target is attention for node in program.graph.nodes) != updates:
        raise LlmcError(
            "LLMC-E0430",
            f"{type(model).__name__} keeps keys and values for attention that it computes itself",
            hint="a model with a state must use transformers' attention interface",
        )


def _exported(model: Any, carried: Carried) -> torch.export.ExportedProgram:
    token_ids = torch.zeros(1, 1, dtype=torch.long, device="meta")
    step = _TokenStep(model, carried)
    with torch.no_grad(), lean_export():
        return torch.export.export(step, (token_ids, token_ids.clone()), strict=False)
