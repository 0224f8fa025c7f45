"""Activations that linear layers have as an epilogue, by their names in the IR.

In and out: f32 tensors of any shape. Nothing here needs code outside Triton's own language, so the
interpreter runs it as it is. Exponentials that overflow give the right limits (0, 1 or -1).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Hyperbolic tangent, within 4e-7 of it in relative terms.

    (1 - e) / (1 + e) with e = exp(-2 |x|) cancels near 0; below 0.1 the Taylor series up to x^5
    is closer.
    """
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    square = x * x
    near = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0)))
    return tl.where(tl.abs(x) < 0.1, near, tl.where(x < 0, -far, far))


@triton.jit
def activate(x, ACT: tl.constexpr):
    """`UNARY[ACT](x)`; an empty name returns `x`."""
    if ACT == "silu":
        x = x * sigmoid(x)
    elif ACT == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACT == "gelu_tanh":
        # 0.5 (1 + tanh u) = sigmoid(2 u)
        x = x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACT == "relu":
        x = tl.maximum(x, 0.0)
    elif ACT == "relu2":
        x = tl.maximum(x, 0.0)
        x = x * x
    elif ACT == "sigmoid":
        x = sigmoid(x)
    elif ACT == "tanh":
        x = tanh(x)
    else:
        tl.static_assert(ACT == "", "unknown activation")
    return x


@triton.jit
def soft_cap(x, CAP: tl.constexpr):
    """`CAP * tanh(x / CAP)`; a cap of 0 returns `x`."""
    if CAP != 0.0:
        x = CAP * tanh(x / CAP)
    return x
