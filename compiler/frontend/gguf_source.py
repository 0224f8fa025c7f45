"""A GGUF file as a model source.

In: a `.gguf` file of an architecture that transformers maps. Out: a `ModelSource` whose tensors
keep their blocks. Only this file touches transformers' GGUF helpers, of which there are two
generations: weight transforms (newer architectures), and tensor processors with a name map (all
others). Both are run on recorded tensors, so row permutations become recipes and blocks stay whole.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import LlmcError
from ...models.auto import no_advice
from ...weights.recipes import Recipe, concat
from .checkpoint import require_plausible_layers
from .gguf_file import GgufFile
from .gguf_metadata import require_stated, stated_fields, without_arrays
from .gguf_parts import SplitGguf, files_of, open_model_file
from .gguf_rope import ROPE_TENSORS, check_rope, scaled_rope
from .gguf_rope_scaling import check_stated_rope, stated_rope
from .gguf_text.assets import gguf_text_assets
from .model_source import Loaded, ModelSource
from .names import convert_with, incompatible
from .recording import RecordedArray
from .weight_digests import WeightDigests

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_EXPERTS = re.compile(r"(?P<name>.*\.ffn_(?P<part>gate|up|down)_exps)\.weight")
_LARGE_ARRAY = 4096  # metadata arrays longer than this are vocabularies


def open_gguf(path: Path, *, id: str, revision: str | None = None) -> ModelSource:
    """The model in the GGUF file `path`, recorded as `id` at `revision`.

    Raises:
        LlmcError: E0403 for an architecture that transformers doesn't map, or metadata that can't
            be applied; E0405 or E0409 as `open_model_file`; E0407 or E0417 for what can't be read,
            E0418 for metadata no config can be made of; what `scaled_rope` and `check_rope` raise.
    """
    return source_of(open_model_file(path), id=id, revision=revision)


def source_of(file: GgufFile, *, id: str, revision: str | None = None) -> ModelSource:
    """The model in `file`. Raises: as `open_gguf`."""
    fields, config, config_notes = _config(file)
    config_bytes = json.dumps(fields, sort_keys=True, default=str).encode()
    text, notes = gguf_text_assets(file)
    return ModelSource(
        id=id,
        revision=revision,
        config=config,
        config_bytes=config_bytes,
        tensors={n: t for n, t in file.tensors.items() if n not in ROPE_TENSORS},
        reader=file,
        convert=lambda model, tensors: _convert(file, fields, model, tensors),
        text=text,
        digests=WeightDigests(files_of(file)),
        notes=(*config_notes, *notes),
    )


def _config(file: GgufFile) -> tuple[dict[str, Any], PreTrainedConfig, tuple[str, ...]]:
    """Config fields and config of the file's model, and notes on metadata that was left out."""
    fields, taken = gguf_config(file)
    fields = without_arrays(file, fields, taken)
    config = _build_config(file, fields)
    changes, notes = stated_fields(file, config, taken)
    if changes:
        fields |= changes
        config = _build_config(file, fields)
        require_stated(file, config, changes)
    rope, more = stated_rope(file, config, taken)
    if rope:
        fields |= rope
        config = _build_config(file, fields)
        check_stated_rope(file, config)
    if file.tensors.keys() & ROPE_TENSORS:
        fields |= scaled_rope(file, config)
        config = _build_config(file, fields)
        check_rope(file, config)
    return fields, config, (*notes, *more)


def gguf_config(file: GgufFile) -> tuple[dict[str, Any], frozenset[str]]:
    """Config fields that transformers reads from the file's metadata.

    And keys below the architecture's name that it read in a way of that architecture's own, where
    it has one; elsewhere none, since what it makes of the others is checked and completed.

    Raises:
        LlmcError: E0403 for an architecture that it doesn't map.
    """
    if "general.architecture" not in file.entries:
        raise LlmcError("LLMC-E0417", f"{file.file.path.name} names no architecture")
    newer = _newer_support()
    if newer is not None and file.architecture in newer.GGUF_CONFIG_ARCHS:
        metadata, _ = newer.read_gguf_metadata(str(file.file.path))
        read = _ReadKeys(metadata)
        fields = newer.get_gguf_config(read, tuple(file.tensors))
        prefix = f"{file.architecture}."
        return fields, frozenset(k.removeprefix(prefix) for k in read.read if k.startswith(prefix))
    try:
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    except ImportError as error:
        raise incompatible(error) from error
    with tempfile.TemporaryDirectory(prefix="llmc-") as folder:
        head = Path(folder) / "head.gguf"
        _write_head(file, head)
        try:
            with no_advice():  # of the vocabulary that the head lacks
                fields = load_gguf_checkpoint(str(head), return_tensors=False)["config"]
        except ValueError as error:
            raise _unmapped(file) from error
        except Exception as error:  # metadata of another kind than it expects
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise LlmcError(
                "LLMC-E0418",
                f"{file.file.path.name}: transformers can't read its metadata: {reason}",
            ) from error
    # The file's own name, under which the source is not recorded, and what the head lacks.
    fields.pop("_model_name_or_path", None)
    fields["vocab_size"] = _vocabulary(file)
    return fields, frozenset()


class _ReadKeys(dict[str, Any]):
    """Metadata that remembers which of its keys were asked for."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


def _newer_support() -> Any:
    try:
        from transformers.integrations import gguf
    except ImportError:
        return None
    return gguf if hasattr(gguf, "GGUF_CONFIG_ARCHS") else None


def _vocabulary(file: GgufFile) -> int:
    """The number of tokens that the model knows: rows of its embedding, else the file's tokens."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is not None:
        return embedding.of[0]
    tokens = file.entries.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise LlmcError("LLMC-E0418", f"{file.file.path.name} has no vocabulary")
    return tokens.count


def _unmapped(file: GgufFile) -> LlmcError:
    return LlmcError(
        "LLMC-E0403", f"transformers does not map the GGUF architecture {file.architecture!r}"
    )


def _write_head(file: GgufFile, target: Path) -> None:
    """A copy of `file` without its vocabulary, scaling of rotations, and data.

    transformers' reader makes an array object of every token, which takes seconds; the config
    doesn't need them. The copy is as long as the file (the longest of several parts) and sparse, so
    that offsets stay valid.
    """
    scaling = f"{file.architecture}.rope.scaling."  # which transformers reads wrongly, if at all
    kept = [
        entry
        for name, entry in file.entries.items()
        if entry.count <= _LARGE_ARRAY and not name.startswith(scaling)
    ]
    parts = file.parts if isinstance(file, SplitGguf) else (file,)
    with target.open("wb") as out:
        out.write(b"GGUF" + (3).to_bytes(4, "little"))
        out.write(len(file.tensors).to_bytes(8, "little") + len(kept).to_bytes(8, "little"))
        for entry in kept:
            out.write(file.file.read(entry.start, entry.stop - entry.start))
        for part in parts:
            out.write(part.file.read(part.table_start, part.table_stop - part.table_start))
        end = out.tell()
    os.truncate(target, end + max(part.file.size for part in parts))


def _build_config(file: GgufFile, fields: dict[str, Any]) -> PreTrainedConfig:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(fields.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise _unmapped(file)
    require_plausible_layers(fields, len(file.tensors))
    try:
        return CONFIG_MAPPING[kind].from_dict(dict(fields))
    except Exception as error:  # config classes check their fields in many ways
        raise LlmcError("LLMC-E0418", f"{file.file.path.name}: {error}") from error


def _convert(
    file: GgufFile,
    fields: dict[str, Any],
    model: PreTrainedModel,
    tensors: Mapping[str, Recipe],
) -> Loaded:
    newer = _newer_support()
    if newer is not None and file.architecture in newer.GGUF_CONFIG_ARCHS:
        mapping = newer.get_gguf_conversion_mapping(file.architecture, model.config)
        return convert_with(model, tensors, mapping, None)
    return _convert_by_processor(file, fields, model, tensors)


def _convert_by_processor(
    file: GgufFile,
    fields: dict[str, Any],
    model: PreTrainedModel,
    tensors: Mapping[str, Recipe],
) -> Loaded:
    """The older generation: a name map made from the model, and a processor for the values."""
    try:
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )
    except ImportError as error:
        raise incompatible(error) from error
    processor = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)(config=fields)
    try:
        # Below the top level the map is only needed where a model is named differently there, and
        # building it for every submodule takes seconds: first try without.
        names = get_gguf_hf_weights_map(_WithoutChildren(model), processor)
        if not tensors.keys() <= names.keys() | {"output.weight"}:
            names = get_gguf_hf_weights_map(model, processor)
    except NotImplementedError as error:
        raise _unmapped(file) from error
    names.setdefault("output.weight", "lm_head.weight")
    recipes: dict[str, Recipe] = {}
    experts: dict[str, dict[str, Recipe]] = {}
    unexpected: dict[str, str] = {}
    for name, tensor in tensors.items():
        match = _EXPERTS.fullmatch(name)
        target = names.get(match["name"]) if match else None
        if match and target is not None:
            experts.setdefault(target, {})[match["part"]] = tensor
        elif name in names:
            recipes[names[name]] = _processed(processor, name, tensor, names)
        else:
            unexpected[name] = name
    for target, parts in experts.items():
        # Gate rows come before up rows in the model's fused tensor [E, 2*N, K].
        recipes[target] = concat([parts[p] for p in ("gate", "up", "down") if p in parts], 1)
    return Loaded(recipes, unexpected)


class _WithoutChildren:
    """What transformers' name map needs of a model, claiming to have no submodules."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config = model.config
        self.state_dict = model.state_dict

    def named_children(self) -> list[Any]:
        return []


def _processed(processor: Any, name: str, tensor: Recipe, names: dict[str, str]) -> Recipe:
    if name == "output.weight":  # never transformed, but some processors copy its data at once
        return tensor
    result = processor.process(
        weights=RecordedArray(tensor), name=name, tensor_key_mapping=names, parsed_parameters={}
    )
    if not isinstance(result.weights, RecordedArray) or result.name != name:
        raise LlmcError("LLMC-E0403", f"transformers converts {name} in a way llmc doesn't know")
    return result.weights.recipe
