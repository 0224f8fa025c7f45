"""What a mask of transformers lets attention see.

In: a mask function, which says for a query's and a key's position whether the one sees the other.
Out: the window of a causal mask. Models build these functions in many ways, so that they are not
recognised but evaluated. Any other kind of mask is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _python_dispatch

from ...base.errors import LlmcError
from ...passes.position_values import telling_positions


def window_of(mask_function: Callable, kwargs: dict[str, Any]) -> int:
    """0 for a causal mask, w for a sliding one, found by evaluating the mask function.

    Raises:
        LlmcError: it is neither, for example bidirectional or chunked.
    """
    size = kwargs.get("local_size") or 16
    with _python_dispatch._disable_current_modes(), torch.device("cpu"):
        window = _evaluated_window(mask_function, size, 4 * size + 3)
        if window is not None:
            return window
        ahead = bool(mask_function(*torch.tensor([0, 0, 0, 1])))
    why = f"mask {_name_of(mask_function)} is neither causal nor a sliding window"
    if not ahead:
        raise LlmcError("LLMC-E0414", why)
    raise both_directions(why)


def both_directions(who: str) -> LlmcError:
    """LLMC-E0414 for a model that isn't causal."""
    return LlmcError(
        "LLMC-E0414",
        f"{who}: tokens see those that come after them, as in an encoder",
        "llmc compiles causal language models; if the checkpoint was trained as one, its "
        "config.json has to say so (`is_decoder`)",
    )


def _name_of(function: Callable) -> str:
    """`and_masks(causal_mask_function, chunked_overlay)`: a function and those that it joins."""
    name = getattr(function, "__qualname__", str(function)).split(".<locals>")[0]
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    joined = [f for cell in cells for f in (cell if isinstance(cell, tuple) else (cell,))]
    inner = [_name_of(f) for f in joined if callable(f)]
    return f"{name}({', '.join(inner)})" if inner else name


def _evaluated_window(mask_function: Callable, size: int, span: int) -> int | None:
    """The window (0: none) of a mask over `span` positions, None if it is of another kind.

    The last query's keys say which window it can only be. That it is one is then checked for all
    pairs of positions that tell masks apart, and for all keys of some queries.
    """
    zero, keys = torch.zeros((), dtype=torch.long), torch.arange(span)

    def evaluate(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        i, j = i.view(-1, 1), j.view(1, -1)
        try:
            return mask_function(zero, zero, i, j).broadcast_to(i.shape[0], j.shape[1])
        except RuntimeError as error:  # it reads a tensor of the traced step
            why = f"mask {_name_of(mask_function)} depends on more than positions"
            raise LlmcError("LLMC-E0414", why) from error

    def is_right(i: torch.Tensor, j: torch.Tensor) -> bool:
        distance = i.view(-1, 1) - j.view(1, -1)
        return torch.equal(evaluate(i, j), (distance >= 0) & (distance < count))

    count = int(evaluate(keys[-1:], keys).sum())
    positions, whole = telling_positions(span, size, count)
    right = is_right(positions, positions) and all(is_right(keys[p : p + 1], keys) for p in whole)
    return (0 if count == span else count) if right else None
