"""A GGUF file with a LoRA adapter, as llama.cpp's `convert_lora_to_gguf.py` writes it.

In: a `.gguf` file of type `adapter`. Out: an `Adapter` whose changes name tensors as GGUF files of
its architecture do: `NAME.lora_a` [r, in] and `NAME.lora_b` [out, r], of experts with a dimension
before, of the embedding [tokens, r] and [size, r]. So it goes with a GGUF base; the scale is alpha
over the rank, or 1 without an alpha.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from ...base.errors import LlmcError
from ...weights.recipes import (
    CheckpointTensor,
    Product,
    Recipe,
    Reshape,
    Slice,
    mul,
    stack,
    transpose,
)
from .adapter import Adapter, Added
from .adapter_config import AdapterConfig
from .gguf_file import GgufFile
from .weight_digests import WeightDigests

_EMBEDDING = "token_embd.weight"
_PARTS = (".lora_a", ".lora_b")


def open_gguf_adapter(path: Path, *, id: str, number: int = 0) -> Adapter:
    """The adapter in the file `path`, recorded as `id`; see `open_adapter` for `number`.

    Raises:
        LlmcError: E0425, it is no LoRA adapter, or one that can't be merged; E0406, its tensors
            don't belong together; E0417, it isn't a sound GGUF file.
    """
    file = GgufFile(path)
    kind, method = file.get("general.type", "model"), file.get("adapter.type", "lora")
    if kind != "adapter" or method != "lora":
        what = f"an adapter of type {method!r}" if kind == "adapter" else f"a {kind}"
        raise LlmcError("LLMC-E0425", f"{path.name} holds {what}, no LoRA adapter")
    if "adapter.alora.invocation_tokens" in file.entries:
        raise LlmcError(
            "LLMC-E0425", f"{path.name}: an activated LoRA works from some token on only"
        )
    stored = {f"adapter{number}:{name}": tensor for name, tensor in file.tensors.items()}
    alpha = file.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise LlmcError("LLMC-E0417", f"{path.name}: adapter.lora.alpha is {alpha!r:.60}")
    return Adapter(
        id=id,
        revision=None,
        path=path.parent,
        config=AdapterConfig(base=f"a GGUF file of {file.architecture!r}"),
        config_bytes=None,
        changes=tuple(_changes(file, number, alpha, id)),
        transposed=False,
        has_text=False,
        reader=file,
        stored=stored,
        digests=WeightDigests({path.name: file.file}),
        notes=(),
    )


def _changes(file: GgufFile, number: int, alpha: float, id: str) -> Iterator[Added]:
    named = {
        name: CheckpointTensor(f"adapter{number}:{name}", t.stored, t.of)
        for name, t in file.tensors.items()
    }
    for name in named:
        if not name.endswith(_PARTS):
            raise LlmcError("LLMC-E0425", f"{id}: llmc doesn't know what tensor {name} does")
    for target in dict.fromkeys(name.rpartition(".")[0] for name in named):
        a, b = (named.get(target + part) for part in _PARTS)
        if a is None or b is None:
            raise LlmcError("LLMC-E0406", f"{id} lacks half of the LoRA of {target}")
        try:
            product = _product(a, b, target == _EMBEDDING)
        except (ValueError, IndexError) as error:
            raise LlmcError(
                "LLMC-E0406",
                f"{id}: the LoRA of {target} is {list(a.of)} and {list(b.of)}, which is no product",
            ) from error
        yield Added(target, mul(alpha / b.of[-1] if alpha else 1.0, product))


def _product(a: CheckpointTensor, b: CheckpointTensor, is_embedding: bool) -> Recipe:
    """The change of the weight, in the orientation of GGUF's matrices."""
    if is_embedding:
        return Product(a, transpose(b))
    if len(a.of) == 2:
        return Product(b, a)
    return stack([Product(_matrix(b, i), _matrix(a, i)) for i in range(a.of[0])])


def _matrix(tensor: CheckpointTensor, index: int) -> Recipe:
    return Reshape(Slice(tensor, 0, index, index + 1), tensor.of[1:])
