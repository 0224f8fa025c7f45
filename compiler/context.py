"""How long the sequences of a compile may be: what was asked, within what a model and we can do."""

from __future__ import annotations

from typing import Any

from ..base.errors import LlmcError

DEFAULT_CONTEXT = 8192
"""Context where the config states none; also the most that is compiled for without being asked."""
MOST_CONTEXT = 1 << 24
"""Positions are i32, and rotary tables are built in float32, which counts exactly up to here."""


_NAMES = ("max_position_embeddings", "max_seq_len")
"""What configs call the positions that their model was made for."""


def context_length(config: Any, asked: int | None) -> int:
    """The context to compile for: what was asked, else the model's own up to the default."""
    own = next((n for name in _NAMES if (n := getattr(config, name, None)) is not None), None)
    if asked is not None:
        return asked
    if own is not None and (not isinstance(own, int) or own < 1):
        raise LlmcError(
            "LLMC-E0418",
            f"the config claims a context of {own!r} tokens",
            hint="say how long sequences are with --max-context",
        )
    return min(own or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def within_tables(context: int, asked: int | None, held: int) -> int:
    """The context for a model whose tables of positions have rows for the first `held`.

    Raises:
        LlmcError: LLMC-E0205, more was asked for.
    """
    if asked is not None and asked > held:
        raise LlmcError(
            "LLMC-E0205",
            f"a context of {asked} tokens: the model's table of positions ends after {held}",
            f"--max-context {held}",
        )
    return min(context, held)


def check_context(asked: int | None) -> None:
    """Raises E0205 for a number that no context can be."""
    if asked is not None and not 1 <= asked <= MOST_CONTEXT:
        raise LlmcError("LLMC-E0205", f"a context of {asked} tokens is not possible")
