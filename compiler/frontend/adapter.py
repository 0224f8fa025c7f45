"""A folder with a PEFT adapter: its settings, and what each of its tensors does to a model.

In: a directory with `adapter_config.json` and `adapter_model.safetensors`. Out: an `Adapter`, whose
changes name modules and parameters as the adapter does (`base_model.model.` taken off), and hold
tensors whose values nobody has read yet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import LlmcError
from ...weights.recipes import CheckpointTensor, Recipe, leaves, mul
from ...weights.values import TensorReader
from .adapter_config import AdapterConfig, read_adapter_config
from .auto_tokenizer import has_tokenizer
from .json_file import json_object
from .safetensors_file import SafetensorsReader
from .weight_digests import WeightDigests
from .weight_files import ADAPTER, tensor_files

ADAPTER_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_LORA = re.compile(
    r"(?P<module>.+?)(?P<wraps>(?:\.base_layer)*)"
    r"\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?P<leaf>\.weight|\.bias)?"
)
"""A tensor of LoRA; after its part may stand the name under which peft held the adapter."""
_TOKENS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(\.[^.]+)?")
_WRAPPED = re.compile(r"\.base_layer(?=\.)|\.modules_to_save(\.(?!weight$|bias$)[^.]+)?(?=\.)")


@dataclass(frozen=True)
class LowRank:
    """scale · B·A, added to the weight of `module`.

    `a` [r, in] and `b` [out, r]; of an embedding [r, tokens] and [size, r]; of E experts in one
    parameter [E·r, in] and [out, r·E]. `magnitude` (DoRA) are the norms that the sum shall have.
    `wraps` counts the adapted parameters of the module that come after this one. Rank and scale
    are those of the adapter's settings.
    """

    module: str
    a: CheckpointTensor
    b: CheckpointTensor
    is_embedding: bool = False
    magnitude: CheckpointTensor | None = None
    wraps: int = 0

    @property
    def parameter(self) -> str:
        """The parameter that is changed, unless the adapter's settings name another."""
        return f"{self.module}.weight"

    @property
    def names(self) -> set[str]:
        return {t.name for t in (self.a, self.b, self.magnitude) if t is not None}


@dataclass(frozen=True)
class Added:
    """`delta`, added to a parameter."""

    parameter: str
    delta: Recipe

    @property
    def names(self) -> set[str]:
        return {leaf.name for leaf in leaves(self.delta) if isinstance(leaf, CheckpointTensor)}


@dataclass(frozen=True)
class Replaced:
    """A parameter that the adapter holds as a whole: `modules_to_save`, biases, embeddings."""

    parameter: str
    tensor: CheckpointTensor

    @property
    def names(self) -> set[str]:
        return {self.tensor.name}


@dataclass(frozen=True)
class ReplacedRows:
    """Rows `indices` of the weight of `module` (trained tokens)."""

    module: str
    indices: tuple[int, ...]
    tensor: CheckpointTensor

    @property
    def parameter(self) -> str:
        return f"{self.module}.weight"

    @property
    def names(self) -> set[str]:
        return {self.tensor.name}


Change = LowRank | Added | Replaced | ReplacedRows


@dataclass(frozen=True)
class Adapter:
    """An adapter by the name it was asked for. `changes`: replaced parameters come first.

    `transposed` says that its modules keep weights as [in, out]; where a module is known, that
    decides. `has_text`: it brings the tokenizer that it was trained with.
    """

    id: str
    revision: str | None
    path: Path
    config: AdapterConfig
    config_bytes: bytes | None
    changes: tuple[Change, ...]
    transposed: bool
    has_text: bool
    reader: TensorReader
    stored: Mapping[str, CheckpointTensor]
    digests: WeightDigests
    notes: tuple[str, ...]

    def file_digests(self) -> dict[str, str]:
        """`{file name: hexadecimal sha256}` of the settings, if in their own file, and weights."""
        digests = self.digests.result()
        if self.config_bytes is not None:
            digests[ADAPTER_CONFIG] = hashlib.sha256(self.config_bytes).hexdigest()
        return digests


def has_adapter(path: Path) -> bool:
    """Whether an adapter lies in directory `path`."""
    return (path / ADAPTER_CONFIG).is_file()


def open_adapter(
    path: Path, *, id: str, revision: str | None = None, number: int = 0, beside: bool = False
) -> Adapter:
    """The adapter in directory `path`, recorded as `id` at `revision`.

    Its tensors are called `adapter{number}:…`, so that those of several are told apart. `beside`
    its base, the folder's text side is the base's.

    Raises:
        LlmcError: E0409 there is none, E0418 its settings can't be read, E0425 they can't be
            merged, and what `tensor_files` raises.
    """
    file = path / ADAPTER_CONFIG
    if not file.is_file():
        raise LlmcError("LLMC-E0409", f"{path} has no {ADAPTER_CONFIG}")
    config_bytes = file.read_bytes()
    raw = json_object(file, config_bytes)
    config = read_adapter_config(raw, str(file))
    files = tensor_files(path, ADAPTER)
    stored = {f"adapter{number}:{name}": f.tensors[name] for name, f in files.items()}
    named = {
        full.partition(":")[2].removeprefix(_PREFIX): CheckpointTensor(full, t.stored, t.of)
        for full, t in stored.items()
    }
    changes = sorted(_changes(named, config, id), key=lambda c: not isinstance(c, Replaced))
    kept = tuple(c for c in changes if _counts(c, config))
    return Adapter(
        id=id,
        revision=revision,
        path=path,
        config=config,
        config_bytes=config_bytes,
        changes=kept,
        transposed=bool(raw.get("fan_in_fan_out")),
        has_text=not beside and has_tokenizer(path),
        reader=SafetensorsReader(files),
        stored=stored,
        digests=WeightDigests({f.file.path.name: f.file for f in files.values()}),
        notes=tuple(_notes(id, config, len(changes) - len(kept))),
    )


def _counts(change: Change, config: AdapterConfig) -> bool:
    if not isinstance(change, LowRank | Added) or config.parameters:
        return True
    return config.changes(change.parameter.rpartition(".")[0])


def _notes(id: str, config: AdapterConfig, dropped: int) -> Iterator[str]:
    if dropped:
        yield f"{id}: {dropped} modules are not among its target_modules, as peft reads them"
    if config.unknown:
        unknown = ", ".join(config.unknown)
        yield f"{id}: {ADAPTER_CONFIG} has fields that llmc doesn't know: {unknown}"


def _changes(
    named: Mapping[str, CheckpointTensor], config: AdapterConfig, id: str
) -> Iterator[Change]:
    """What the tensors of an adapter do, in the order of the file."""
    parts: dict[tuple[str, int], dict[str, CheckpointTensor]] = {}
    for name, tensor in named.items():
        low_rank, tokens = _LORA.fullmatch(name), _TOKENS.fullmatch(name)
        if low_rank is not None and low_rank["leaf"] == ".bias":
            module = low_rank["module"]
            yield Added(f"{module}.bias", mul(config.scale_of(module), tensor))
        elif low_rank is not None:
            key = low_rank["module"], low_rank["wraps"].count(".base_layer")
            if parts.setdefault(key, {}).setdefault(low_rank["part"], tensor) is not tensor:
                raise LlmcError("LLMC-E0425", f"{id} holds several adapters of {key[0]}")
        elif tokens is not None:
            yield ReplacedRows(tokens["module"], _indices(config, tokens["module"], id), tensor)
        elif "lora_" in name:
            raise LlmcError("LLMC-E0425", f"{id}: llmc doesn't know what tensor {name} does")
        else:
            yield Replaced(_WRAPPED.sub("", name), tensor)
    for (module, wraps), found in parts.items():
        yield _low_rank(module, wraps, found, config, id)


def _low_rank(
    module: str, wraps: int, parts: dict[str, CheckpointTensor], config: AdapterConfig, id: str
) -> LowRank:
    embedding = "embedding_A" in parts
    a, b = (parts.pop(f"embedding_{x}" if embedding else x, None) for x in "AB")
    if a is None or b is None:
        raise LlmcError("LLMC-E0406", f"{id} lacks half of the LoRA of {module}")
    magnitude = parts.pop("magnitude_vector", None)
    if parts or (magnitude is not None) != config.dora:
        what = next(iter(parts), "lora_magnitude_vector, whose use use_dora decides")
        raise LlmcError("LLMC-E0425", f"{id}: {module} does not fit its settings: {what}")
    if len(a.of) != 2 or len(b.of) != 2 or a.of[0] != b.of[1] or not a.of[0]:
        raise LlmcError(
            "LLMC-E0406",
            f"{id}: the LoRA of {module} is {list(a.of)} and {list(b.of)}, which is no product",
        )
    return LowRank(module, a, b, embedding, magnitude, wraps)


def _indices(config: AdapterConfig, module: str, id: str) -> tuple[int, ...]:
    """Which tokens `trainable_token_indices` names for `module`."""
    told: Any = config.token_indices
    if isinstance(told, dict):
        told = next((v for n, v in told.items() if module == n or module.endswith(f".{n}")), None)
    if not isinstance(told, list) or not all(type(i) is int and i >= 0 for i in told):
        raise LlmcError("LLMC-E0418", f"{id}: trainable_token_indices names no tokens of {module}")
    return tuple(told)
