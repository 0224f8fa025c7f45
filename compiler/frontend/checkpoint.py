"""A local Hugging Face directory as a model source.

In: a directory with `config.json`, safetensors (one file, or shards with an index) and the text
side (tokenizer, chat template, generation defaults, license). Out: a `ModelSource`; only headers of
the weights are read. Nothing is unpickled and no code from the directory is run unless allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import LlmcError
from ...models.auto import other_task, text_config
from ...weights.recipes import CheckpointTensor
from ...weights.values import TensorReader
from .config_fields import unread_fields
from .folder_kinds import refuse_embedding_model, without_config
from .json_file import json_object
from .model_source import Convert, ModelSource
from .names import convert_checkpoint, convert_reordered
from .quantized.detect import find_settings, require_said
from .quantized.registry import CONFIG_KEYS, open_quantized, unquantized_fields
from .quantized.settings import Settings
from .remote_code import code_files, has_own_code, trusted
from .row_file import RowFile
from .safetensors_file import SafetensorsFile, SafetensorsReader
from .text_part import convert_text_part
from .text_side import text_side
from .weight_digests import WeightDigests
from .weight_files import tensor_files, unread_note

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_MOST_SHARED_LAYERS = 1024  # layers may share weights, so a few more than there are tensors


def open_checkpoint(
    path: Path, *, id: str, revision: str | None = None, trust_remote_code: bool = False
) -> ModelSource:
    """The model in directory `path`, recorded as `id` at `revision`.

    Raises:
        LlmcError: E0402, E0404, E0405, E0406, E0407, E0409, E0417, E0418 or E0419 (see the table).
    """
    config_path = path / "config.json"
    if not config_path.is_file():
        raise without_config(path)
    refuse_embedding_model(path)
    config_bytes = config_path.read_bytes()
    raw = json_object(config_path, config_bytes)
    quantization = find_settings(path, raw)
    files = tensor_files(path)
    require_plausible_layers(raw, len(files))
    whole = load_config(path, raw, trust_remote_code)
    config = text_config(whole)
    tensors, reader, convert, notes = _weights(files, whole, config, quantization)
    if config is not whole and "tie_word_embeddings" not in raw:
        # Class defaults are no statement: what the checkpoint holds decides, as in transformers.
        config.tie_word_embeddings &= not any(name.endswith("lm_head.weight") for name in tensors)
    text, more = text_side(
        path, raw, whole, hub_id=id if revision else None, trust_remote_code=trust_remote_code
    )
    unique = {file.file.path.name: file.file for file in files.values()}
    if trust_remote_code and has_own_code(raw):
        unique |= {name: RowFile(file) for name, file in code_files(path).items()}
    return ModelSource(
        id=id,
        revision=revision,
        config=config,
        config_bytes=config_bytes,
        tensors=tensors,
        reader=reader,
        convert=convert,
        text=text,
        digests=WeightDigests(unique),
        unread=tuple(unread_fields(unquantized_fields(raw), whole, config)),
        notes=(*unread_note(path), *notes, *more),
        quantization=None if quantization is None else quantization.method,
    )


def _weights(
    files: Mapping[str, SafetensorsFile],
    whole: PreTrainedConfig,
    config: PreTrainedConfig,
    quantization: Settings | None,
) -> tuple[Mapping[str, CheckpointTensor], TensorReader, Convert, tuple[str, ...]]:
    """Tensors, their reader and conversion, and lines for the user."""
    tensors = {name: file.tensors[name] for name, file in files.items()}
    reader = SafetensorsReader(files)
    convert = convert_checkpoint if config is whole else partial(convert_text_part, whole)
    if quantization is None:
        require_said(tensors)
        return tensors, reader, convert, ()
    opened = open_quantized(quantization, tensors, reader)
    convert = partial(convert_reordered, convert, opened.transposed, opened.order)
    return opened.tensors, opened.reader, convert, opened.notes


def load_config(path: Path, raw: dict[str, Any], trust_remote_code: bool) -> PreTrainedConfig:
    """The transformers config of directory `path`, whose config.json holds `raw`.

    With `trust_remote_code`, models built from it are of the directory's own code, if it has any.

    Raises:
        LlmcError: E0402 for an architecture transformers can't build, E0418 for a broken config.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = raw.get("model_type")
    if not isinstance(kind, str):
        raise LlmcError("LLMC-E0418", f"{path / 'config.json'} has no model_type")
    if kind not in CONFIG_MAPPING and not trust_remote_code:
        custom = "auto_map" in raw
        raise LlmcError(
            "LLMC-E0402",
            f"transformers has no architecture {kind!r}",
            "if you trust the code in the model's repository: --trust-remote-code"
            if custom
            else "upgrade transformers, or compile another model",
        )
    other = other_task(raw.get("architectures"))
    if other is not None and not trust_remote_code:
        raise LlmcError("LLMC-E0402", f"the model is a {other}, no causal language model")
    try:
        config = AutoConfig.from_pretrained(
            path, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # config classes check their fields in many ways
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise LlmcError("LLMC-E0418", f"{path / 'config.json'}: {reason}") from error
    for part in (config, text_config(config)):  # the model is built without a quantizer
        for name in CONFIG_KEYS:
            part.__dict__.pop(name, None)
    _refuse_other_attention(config, text_config(config))
    return trusted(config, path) if trust_remote_code else config


def _refuse_other_attention(config: PreTrainedConfig, text: PreTrainedConfig) -> None:
    """Refuse a text model that sees tokens to come, before a trace that could only name its mask.

    Raises:
        LlmcError: E0402.
    """
    why = ""
    if text is not config and getattr(text, "is_encoder_decoder", False):
        why = "an encoder and a decoder"
    elif getattr(text, "use_bidirectional_attention", None) is True:
        why = "one that attends in both directions (use_bidirectional_attention)"
    if why:
        whole = "" if text is config else f" of a {config.model_type}"
        raise LlmcError(
            "LLMC-E0402",
            f"the text model{whole} is a {text.model_type}, {why}",
            "llmc compiles causal language models",
        )


def require_plausible_layers(config: Mapping[str, Any], tensors: int) -> None:
    """Refuse a number of layers that `tensors` tensors can't be the weights of.

    Before anything is built: transformers would try to, for hours and until memory ends.

    Raises:
        LlmcError: E0418.
    """
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    for name, count in ((n, part.get(n)) for part in parts for n in _LAYER_COUNTS):
        if isinstance(count, int) and count > max(tensors, _MOST_SHARED_LAYERS):
            raise LlmcError(
                "LLMC-E0418",
                f"the config claims {name} {count}, the checkpoint has {tensors} tensors",
            )
