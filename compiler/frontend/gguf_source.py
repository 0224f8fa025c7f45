"""A GGUF file as a model source.

In: a `.gguf` file of an architecture that transformers maps. Out: a `ModelSource` whose tensors
keep their blocks. Only this file and `gguf_tokenizer.py` touch transformers' GGUF helpers, of which
there are two generations: weight transforms (newer architectures), and tensor processors with a
name map (all others). Both are run on recorded tensors, so row permutations become recipes and
blocks stay whole.
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
from .gguf_rope import ROPE_TENSORS, check_rope, scaled_rope
from .gguf_tokenizer import gguf_text_assets
from .model_source import Loaded, ModelSource
from .names import convert_with, incompatible
from .recording import RecordedArray
from .weight_digests import WeightDigests

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_EXPERTS = re.compile(r"(?P<name>.*\.ffn_(?P<part>gate|up|down)_exps)\.weight")
# Metadata that transformers' older mapping drops for some architectures, though their configs have
# the field: without it a model silently gets the default of another one.
_DROPPED = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_LARGE_ARRAY = 4096  # metadata arrays longer than this are vocabularies


def open_gguf(path: Path, *, id: str, revision: str | None = None) -> ModelSource:
    """The model in the GGUF file `path`, recorded as `id` at `revision`.

    Raises:
        LlmcError: E0403 for an architecture that transformers doesn't map, E0407 or E0417 for
            what can't be read, E0418 for metadata no config can be made of; what `scaled_rope`
            and `check_rope` raise.
    """
    file = GgufFile(path)
    fields = gguf_config(file)
    config = _build_config(file, fields)
    if file.tensors.keys() & ROPE_TENSORS:
        fields |= scaled_rope(file, config)
        config = _build_config(file, fields)
        check_rope(file, config)
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
        digests=WeightDigests({path.name: file.file}),
        notes=notes,
    )


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """Config fields that transformers reads from the file's metadata.

    Raises:
        LlmcError: E0403 for an architecture or a rope scaling that it doesn't map.
    """
    if "general.architecture" not in file.entries:
        raise LlmcError("LLMC-E0417", f"{file.file.path.name} names no architecture")
    newer = _newer_support()
    if newer is not None and file.architecture in newer.GGUF_CONFIG_ARCHS:
        metadata, names = newer.read_gguf_metadata(str(file.file.path))
        return newer.get_gguf_config(metadata, names)
    try:
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    except ImportError as error:
        raise incompatible(error) from error
    _refuse_rope_scaling(file)
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
    if fields.get("vocab_size") is None:
        fields["vocab_size"] = _vocabulary(file)
    return _dropped_fields(file, fields) | fields


def _dropped_fields(file: GgufFile, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that the metadata states, the config class has, and transformers didn't read."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = fields.get("model_type")
    if kind not in CONFIG_MAPPING:
        return {}
    default = CONFIG_MAPPING[str(kind)]()
    stated = {name: file.get(f"{file.architecture}.{key}") for key, name in _DROPPED.items()}
    return {n: v for n, v in stated.items() if isinstance(v, int | float) and hasattr(default, n)}


def _newer_support() -> Any:
    try:
        from transformers.integrations import gguf
    except ImportError:
        return None
    return gguf if hasattr(gguf, "GGUF_CONFIG_ARCHS") else None


def _vocabulary(file: GgufFile) -> int:
    tokens = file.entries.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise LlmcError("LLMC-E0418", f"{file.file.path.name} has no vocabulary")
    return tokens.count


def _unmapped(file: GgufFile) -> LlmcError:
    return LlmcError(
        "LLMC-E0403", f"transformers does not map the GGUF architecture {file.architecture!r}"
    )


def _refuse_rope_scaling(file: GgufFile) -> None:
    """transformers' older mapping drops rope scaling; a model without it is another model.

    LongRoPE needs no more than its factors, which `gguf_rope.py` reads.
    """
    kind = file.get(f"{file.architecture}.rope.scaling.type", "none")
    if kind == "longrope" and file.tensors.keys() & ROPE_TENSORS:
        return
    if kind not in ("none", "") and "gpt" not in file.architecture:
        raise LlmcError(
            "LLMC-E0403",
            f"transformers does not map the rope scaling {kind!r} of {file.file.path.name}",
        )


def _write_head(file: GgufFile, target: Path) -> None:
    """A copy of `file` without its vocabulary and without data.

    transformers' reader makes an array object of every token, which takes seconds; the config
    doesn't need them. The copy is as long as the file, so that offsets stay valid, but sparse.
    """
    kept = [e for e in file.entries.values() if e.count <= _LARGE_ARRAY]
    with target.open("wb") as out:
        out.write(b"GGUF" + (3).to_bytes(4, "little"))
        out.write(len(file.tensors).to_bytes(8, "little") + len(kept).to_bytes(8, "little"))
        for entry in kept:
            out.write(file.file.read(entry.start, entry.stop - entry.start))
        out.write(file.file.read(file.table_start, file.table_stop - file.table_start))
    os.truncate(target, file.file.size)


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
