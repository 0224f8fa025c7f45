"""Kernels made for what no hand-written one does: which maker an op has.

In: the node whose results a kernel stores, the nodes computed inside it, views of what lies in
memory. Out: a `Generated` kernel.
"""

from __future__ import annotations

from ...ir.ops import CumSum, MatMul, Reduce, Scatter, Softmax, TopK
from .generated_maps import map_kernel, scatter_kernel
from .generated_products import matmul_kernel
from .generated_rows import (
    cumsum_kernel,
    reduce_kernel,
    softmax_kernel,
    top_k_kernel,
)
from .generated_text import Generated, Subject


def generate_kernel(subject: Subject) -> Generated:
    """The kernel of a group's last node.

    Raises:
        ValueError: this use of the op isn't covered; the message says which.
    """
    makers = {
        Reduce: reduce_kernel,
        Softmax: softmax_kernel,
        CumSum: cumsum_kernel,
        TopK: top_k_kernel,
        MatMul: matmul_kernel,
        Scatter: scatter_kernel,
    }
    return makers.get(type(subject.node.op), map_kernel)(subject)
