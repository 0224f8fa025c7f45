"""Random weights on which no part of a model is idle.

In: a `transformers` model as its own initialisation leaves it (norm weights 1, biases 0, sinks 0).
Out: the same model with every parameter and every saved floating-point buffer drawn at random, so
that a compiler that drops a bias, a norm weight, a router correction or a sink gives other logits.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

EMBEDDING_STD = 0.5
"""Large enough that tokens stay distinguishable after the first layers add their outputs."""

OFFSET_STD = 0.2
"""Spread around the initial value of what initialisation leaves constant (1 or 0)."""


DECAYS = ("A_log",)
"""Names of parameters whose exponentials are the decays of a recurrence."""


def randomize(model: PreTrainedModel, seed: int, embedding_std: float = EMBEDDING_STD) -> None:
    """Draw all weights of `model` anew, in place.

    Matrices get a standard deviation of `1/sqrt(fan-in)` (hidden states and attention scores stay
    near 1, so softmax is neither uniform nor one-hot), embeddings `embedding_std`; everything else
    keeps its initial value plus noise of `OFFSET_STD`; so do the logarithms of a recurrence's
    decays, which are no matrix whatever their shape. Buffers that initialisation fills with
    different numbers are kept: they are tables, which a model may have several of that must agree.
    Each tensor has its own generator, seeded by its name: adding one does not change the others.
    """
    import torch

    gates = _gates(model)
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    buffers = {name for name, _ in model.named_buffers()} & set(model.state_dict())
    tensors = dict(model.named_parameters()) | {
        name: buffer
        for name, buffer in model.named_buffers()
        if name in buffers and bool((buffer == buffer.flatten()[:1]).all())
    }
    with torch.no_grad():
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=_generator(name, seed))
            is_embedding = id(tensor) in embeddings
            if is_embedding:
                drawn = noise * embedding_std
            elif name.endswith(DECAYS):
                drawn = tensor + noise * OFFSET_STD
            elif id(tensor) in gates:
                drawn = noise / tensor.shape[1] ** 0.5
            else:
                drawn = _draw(tensor, noise)
            tensor.copy_(drawn)


def _gates(model: PreTrainedModel) -> set[int]:
    """Linear layers within the modules that have decays.

    They make time steps and gates, a few numbers of a whole hidden state. With weights as `fan_in`
    has them these would be so large that a state is forgotten at once, and that chunked eager code,
    which takes differences of sums of their logarithms, loses half of its digits.
    """
    import torch

    mixers = [m for m in model.modules() if any(hasattr(m, name) for name in DECAYS)]
    inner = (part for mixer in mixers for part in mixer.modules())
    return {id(part.weight) for part in inner if isinstance(part, torch.nn.Linear)}


def _draw(tensor: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    if tensor.ndim >= 2 and tensor.float().std() > 0 and min(tensor.shape[-2:]) > 1:
        return noise / fan_in(tensor) ** 0.5
    return tensor + noise * OFFSET_STD


def fan_in(tensor: torch.Tensor) -> int:
    """Return the number of inputs of a matrix, or of each matrix in a stack of them.

    Layouts differ (`[out, in]`, `[in, out]`, `[experts, in, out]`, …); in a tiny model the smaller
    of the last two sizes is the hidden size or close to it, which is all that scale needs.
    """
    return min(tensor.shape[-2:])


def _generator(name: str, seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
