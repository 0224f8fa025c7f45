"""A model source with adapters: `--lora`, or what lies in the model's own folder.

In: the source of a base model and opened adapters. Out: a source whose weights are the merged ones,
with the text side of the adapter that brings one. The config changes where an adapter asks for it:
embedding and head that were one tensor become two, and a vocabulary grows.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...base.errors import LlmcError
from ...weights.formats.number_format import Quantized
from ...weights.recipes import CheckpointTensor
from ...weights.values import TensorReader
from .adapter import Adapter, Change, Replaced, ReplacedRows
from .interfaces import EAGER
from .model_source import ModelSource, TextAssets
from .text_side import merged_generation, text_side
from .trace import build_on_meta

_COMPARED_ROWS = 4096
_GGUF_ENDS = {"token_embd", "output"}


def with_adapters(
    source: ModelSource, adapters: Sequence[Adapter], trust_remote_code: bool = False
) -> ModelSource:
    """`source` with `adapters` merged into it in their order.

    Raises:
        LlmcError: E0425, they can't be merged into this model; E0417, the text side of one can't be
            read.
    """
    reader = _JoinedReader(source.reader, adapters)
    config, ties = copy.deepcopy(source.config), dict(source.ties)
    changes = [change for adapter in adapters for change in adapter.changes]
    ends = _Ends(config)
    if ends.are_separated(changes, reader):
        config.tie_word_embeddings = False
        ties |= ends.ties
    vocabulary = ends.vocabulary(changes) or config.vocab_size
    told = {"tie_word_embeddings": config.tie_word_embeddings, "vocab_size": vocabulary}
    config.vocab_size = vocabulary
    changed = config.to_dict() != source.config.to_dict()
    notes = [*source.notes]
    for adapter in adapters:
        notes += _notes(adapter)
        if adapter.has_text:
            text, more = _text_of(adapter, source, trust_remote_code)
            source = replace(source, text=text)
            notes += more
    return replace(
        source,
        config=config,
        config_bytes=source.config_bytes + json.dumps(told).encode() * changed,
        reader=reader,
        notes=tuple(notes),
        adapters=(*source.adapters, *adapters),
        ties=ties,
    )


def _notes(adapter: Adapter) -> Iterator[str]:
    yield f"adapter {adapter.id} is merged: {len(adapter.changes)} changes"
    yield from adapter.notes


def _text_of(
    adapter: Adapter, base: ModelSource, trust_remote_code: bool
) -> tuple[TextAssets, list[str]]:
    """The text side that an adapter was trained with, on top of its base's, and what to say."""
    hub_id = adapter.id if adapter.revision else None
    own, notes = text_side(
        adapter.path, {}, base.config, hub_id=hub_id, trust_remote_code=trust_remote_code
    )
    before = base.text
    text = replace(
        own,
        generation=merged_generation(before.generation, own.generation),
        license=own.license or before.license,
    )
    if text.chat_template is None and before.chat_template is not None:
        text = replace(
            text,
            chat_template=before.chat_template,
            named_templates=before.named_templates,
            vectors=None,
        )
    if (text.tokenizer, text.chat_template) != (before.tokenizer, before.chat_template):
        notes = (*notes, f"tokenizer and chat template are those of adapter {adapter.id}")
    return text, list(notes)


class _Ends:
    """Where a model begins and ends: embedding and head, which may share a tensor."""

    def __init__(self, config: Any) -> None:
        model = build_on_meta(config, EAGER)
        modules = {id(module): path for path, module in model.named_modules()}
        self._input = modules.get(id(model.get_input_embeddings()), "").rpartition(".")[2]
        self.ties: Mapping[str, str] = dict(getattr(model, "all_tied_weights_keys", None) or {})
        tied = {name.split(".")[-2] for pair in self.ties.items() for name in pair}
        self._tied = tied | _GGUF_ENDS if tied else tied

    def are_separated(self, changes: Sequence[Change], reader: TensorReader) -> bool:
        """Whether an adapter changes one of two ends that are the same tensor, or both unlike."""
        found = [c for c in changes if self._module(c) in self._tied]
        if not found or all(isinstance(c, ReplacedRows) for c in found):
            return False  # trained tokens are of both
        if any(isinstance(c, ReplacedRows) for c in found):
            raise LlmcError(
                "LLMC-E0425", "trained tokens beside other changes of a head tied to the embedding"
            )
        kept = [c.tensor for c in found if isinstance(c, Replaced)]
        ends = self._tied - _GGUF_ENDS
        whole = len(kept) == len(found) and {self._module(c) for c in found} == ends
        return not whole or any(not _equal(kept[0], other, reader) for other in kept[1:])

    def vocabulary(self, changes: Sequence[Change]) -> int | None:
        """Rows of the embedding that an adapter brings, if any does."""
        rows = [
            change.tensor.of[0]
            for change in changes
            if isinstance(change, Replaced) and self._module(change) == self._input
            and len(change.tensor.of) == 2
        ]  # fmt: skip
        return rows[-1] if rows else None

    @staticmethod
    def _module(change: Change) -> str:
        path = change.parameter.rpartition(".")[0]
        return path.rpartition(".")[2]


def _equal(one: CheckpointTensor, other: CheckpointTensor, reader: TensorReader) -> bool:
    if one.of != other.of:
        return False
    slices = (
        np.arange(start, min(start + _COMPARED_ROWS, one.of[0]))
        for start in range(0, one.of[0], _COMPARED_ROWS)
    )
    return all(np.array_equal(reader.rows(one, s), reader.rows(other, s)) for s in slices)


class _JoinedReader:
    """Rows of the base's tensors and of its adapters', which have names of their own."""

    def __init__(self, base: TensorReader, adapters: Sequence[Adapter]) -> None:
        self._base = base
        self._adapters = {
            name: (adapter.reader, tensor)
            for adapter in adapters
            for name, tensor in adapter.stored.items()
        }

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        if tensor.name in self._adapters:
            reader, own = self._adapters[tensor.name]
            return reader.rows(own, rows)
        return self._base.rows(tensor, rows)

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray) -> Quantized:
        return self._base.blocks(tensor, rows)
