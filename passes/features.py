"""What a backend wants of the graph that it lowers: features, each read by the one pass it is for.

| feature | pass |
|---|---|
| `state` | `lower_state`; with latents among it `raise_latent` |
| `gated_panels` | `fuse_gated` |
| `quantized_inputs` | `quantize`, and `fuse_norm_quantize` after it |
| `rolled_layers` | `roll_layers` |
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.state import StateKind
from ..ir.states import INDEX, LATENT, PAGED, SLOTS, STATEFUL


@dataclass(frozen=True)
class Features:
    """`state`: the kind of each sort of mixer. `gated_panels`: gate and up are one matrix of
    alternating panels, whose kernel applies the activation. `quantized_inputs`: inputs of layers
    with weights in blocks become int8 blocks, by ops of the graph; else such layers take them as
    they are, because the runtime has its own way with these. `rolled_layers`: equal layers are
    calls of one body."""

    state: tuple[StateKind, ...]
    gated_panels: bool = False
    quantized_inputs: bool = False
    rolled_layers: bool = False

    @property
    def uniform_query(self) -> bool:
        """Whether all sequences of a run bring equally many tokens."""
        return any(kind.uniform_query for kind in self.state)

    @property
    def latents(self) -> bool:
        """Whether attention may keep latents instead of the keys and values of heads."""
        return LATENT in self.state

    @property
    def name(self) -> str:
        """Short, for reports: the kind of the keys and values."""
        return self.state[0].name


OWN_KERNELS = Features(
    (PAGED, LATENT, INDEX, *STATEFUL), gated_panels=True, quantized_inputs=True, rolled_layers=True
)
"""For kernels of ours, which have one for every kind of state."""
FOREIGN_RUNTIME = Features((SLOTS,))
"""For runtimes that have their own kernels and one contiguous cache a sequence."""
