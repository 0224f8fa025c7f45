"""What every kind of model source gives the compiler.

In: nothing; this is the shared vocabulary of `checkpoint.py` and `gguf_source.py` (which make
sources) and of `names.py` and the driver (which use them). No weights are held: `tensors` are names
with types, `reader` reads rows of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...artifact.text_vectors import TextVectors
from ...weights.recipes import CheckpointTensor, Recipe
from ...weights.values import TensorReader
from .row_file import RowFile

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Loaded:
    """Result of a conversion: recipes by parameter name, and the tensors that reached none.

    `unexpected` maps a checkpoint tensor's name to the name it would have had in the model;
    `left_out` are tensors of parts of the checkpoint's model that are not compiled.
    """

    recipes: dict[str, Recipe]
    unexpected: dict[str, str]
    left_out: frozenset[str] = frozenset()


Convert = Callable[["PreTrainedModel", Mapping[str, CheckpointTensor]], Loaded]


@dataclass(frozen=True)
class TextAssets:
    """What turns text into token ids and back; None or empty where the source has none.

    `tokenizer` is the content of a `tokenizer.json`, `chat_template` a Jinja template,
    `named_templates` are others by name, `generation` the defaults of `generation_config.json` (at
    least the special token ids). `special_tokens` is what templates may name (None: what the ids in
    `generation` stand for), `vectors` what transformers makes of texts and chats (None: what it
    makes of the tokenizer and the templates above).
    """

    tokenizer: bytes | None = None
    chat_template: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    special_tokens: Mapping[str, str] | None = None
    split_special_tokens: bool = False
    vectors: TextVectors | None = None


@dataclass(frozen=True)
class ModelSource:
    """A model to compile: config, tensors by name, and what belongs to its text side.

    `id` and `revision` say where it came from; `config_bytes` is what the config was read from;
    `unread` are fields of it that no code of transformers reads; `notes` are lines that the compile
    should print. `quantization`: the method with which the checkpoint is quantized.
    """

    id: str
    revision: str | None
    config: PreTrainedConfig
    config_bytes: bytes
    tensors: Mapping[str, CheckpointTensor]
    reader: TensorReader
    convert: Convert
    text: TextAssets
    digests: WeightDigests
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    quantization: str | None = None


class WeightDigests:
    """sha256 of the weight files, computed beside the compile (hashing releases the GIL)."""

    def __init__(self, files: Mapping[str, RowFile]) -> None:
        self._files = dict(sorted(files.items()))
        self._found: dict[str, str] = {}
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin hashing in the background."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="weight digests", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            for name, file in self._files.items():
                self._found[name] = file.sha256()
        except BaseException as error:  # handed to the thread that asks for the result
            self._error = error

    def result(self) -> dict[str, str]:
        """`{file name: hexadecimal sha256}`, sorted by name; waits until it is known.

        Raises:
            LlmcError: a file could not be read.
        """
        self.start()
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error
        return dict(self._found)
