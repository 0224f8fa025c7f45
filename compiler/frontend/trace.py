"""Config → exported program: the model on the meta device, traced as one packed step.

In: a transformers config. Out: a `Traced` with the exported ATen graph, the model
(for parameter names and ties) and the values of its computed constants. No weights
are loaded; the trace is in float32, since passes decide the precision.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

from ...base.errors import LlmcError
from ...models.auto import auto_class
from . import inplace, interfaces
from .buffers import compute_buffers
from .chosen_keys import sizes_without_branches
from .lean_export import LinearCalls, lean_export
from .stateful_interfaces import stateful_functions
from .untraceable import narrow_range, untraceable

SAMPLE_TOKENS = 19
"""Length of the traced example: prime, so that no model dimension is a multiple by chance."""


@dataclass
class Traced:
    """What tracing gives: program, model, computed constants, notes; `max_context` tokens are the
    longest sequence that it is for."""

    program: torch.export.ExportedProgram
    model: Any
    buffers: dict[str, torch.Tensor]
    notes: list[str] = field(default_factory=list)
    max_context: int = 8192
    factors: dict[str, float] = field(default_factory=dict)
    """What the model multiplies parameters with, by name, before it computes anything."""


def require_all_lengths(traced: Traced) -> None:
    """A trace must hold for any number of tokens that a sequence may have, from 2 on (and 1, which
    the probe tries).

    Raises:
        LlmcError: LLMC-E0430.
    """
    program = traced.program
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in program.graph_signature.user_inputs:
            continue
        bounds = program.range_constraints.get(node.meta["val"].shape[1].node.expr)
        if bounds is not None and (bounds.lower > 2 or bounds.upper < traced.max_context):
            raise narrow_range(traced.model, bounds.lower, bounds.upper)


class _Step(torch.nn.Module):
    """The traced call: token ids and positions [1, T] → logits [1, T, vocab]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with LiteralNumbers(), LinearCalls():
            out = self.model(input_ids=token_ids, position_ids=positions, use_cache=False)
        return out.logits


class LiteralNumbers(TorchFunctionMode):
    """Lets numbers that model code makes a tensor of keep their values in a trace on meta.

    A tensor of no dimensions and a list of indices stay on the CPU, where they mix with any device.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and isinstance(args[0], bool | int | float):
            kwargs = kwargs | {"device": "cpu"}
        if func is torch.Tensor.__getitem__:
            args = (args[0], _with_tensors(args[1]))
        return func(*args, **kwargs)


def _with_tensors(index: Any) -> Any:
    """An index whose lists of numbers are tensors on the CPU: torch would make them on meta."""
    if isinstance(index, tuple):
        return tuple(map(_with_tensors, index))
    if isinstance(index, list) and index and all(type(i) is int for i in index):
        return torch.tensor(index, device="cpu")
    return index


def trace(config: Any, max_context: int, attention: str = interfaces.NAME) -> Traced:
    """Trace the causal language model of `config` for contexts up to `max_context` tokens.

    Raises:
        LlmcError: LLMC-E0413, E0414 an interface is used in a way we don't know; LLMC-E0402 no
            causal language model for this config; LLMC-E0430 it can't be exported.
    """
    model = build_on_meta(config, attention)
    buffers, notes = compute_buffers(model, max_context)
    program = export(model, lambda: _exported(model))
    return Traced(program, model, buffers, notes, max_context)


def build_on_meta(config: Any, attention: str = interfaces.NAME) -> Any:
    """The model of `config` on the meta device, in float32, with our interfaces chosen.

    Raises:
        LlmcError: LLMC-E0402, transformers can't build it (with this attention); LLMC-E0418, its
            numbers describe no model.
    """
    auto = auto_class(config) or AutoModelForCausalLM  # which also knows remote code
    try:
        with torch.device("meta"), quiet():
            model = auto.from_config(
                config,
                attn_implementation=attention,
                experts_implementation=interfaces.NAME,
                dtype=torch.float32,
            )
    except (ValueError, ImportError) as error:
        raise LlmcError(
            "LLMC-E0402",
            f"transformers has no causal language model for {config.model_type!r}: "
            f"{_first_line(error)}",
            hint="llmc compiles causal language models and the text side of multimodal ones",
        ) from error
    except Exception as error:  # what a model's own code makes of numbers that make no sense
        raise LlmcError(
            "LLMC-E0418",
            f"no {config.model_type} model can be built from the config: "
            f"{type(error).__name__}: {_first_line(error)}",
            hint="check the numbers in config.json",
        ) from error
    return model.eval().requires_grad_(False)


def export(
    model: Any, run: Callable[[], torch.export.ExportedProgram]
) -> torch.export.ExportedProgram:
    """The program that `run` exports of `model`, as the importer can read it.

    Raises:
        LlmcError: LLMC-E0430, it can't be exported.
    """
    try:
        program = run()
        if not inplace.is_proven(program):
            with quiet():
                program = inplace.decomposed(program)
    except LlmcError:
        raise
    except Exception as error:
        raise untraceable(model, error, run) from error
    return program


def _exported(model: Any) -> torch.export.ExportedProgram:
    token_ids = torch.zeros(1, SAMPLE_TOKENS, dtype=torch.long, device="meta")
    positions = torch.arange(SAMPLE_TOKENS, device="meta").unsqueeze(0)
    dynamic = {1: torch.export.Dim.DYNAMIC}
    spelled_out = model.config._attn_implementation == interfaces.EAGER
    masks = interfaces.spelled_out_masks() if spelled_out else contextlib.nullcontext()
    ours = stateful_functions(model)
    sizes = sizes_without_branches(model)
    with torch.no_grad(), quiet(), interfaces.single_sequence(), masks, ours, sizes, lean_export():
        return torch.export.export(
            _Step(model), (token_ids, positions), dynamic_shapes=(dynamic, dynamic), strict=False
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, and none of what torch logs about code that it can't follow."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
