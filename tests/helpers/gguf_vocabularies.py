"""Small GGUF files that hold a vocabulary and nothing else, written with the gguf package."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
from llmc.compiler.frontend.gguf_file import GgufFile
from llmc.compiler.frontend.gguf_text.assets import gguf_text_assets
from llmc.compiler.frontend.model_source import TextAssets
from llmc.runtime.text.tokenizer import Tokenizer
from tokenizers import pre_tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def write_vocabulary(
    path: Path,
    tokens: Sequence[str],
    kinds: Sequence[int] | None = None,
    *,
    model: str = "gpt2",
    pre: str | None = "gpt-2",
    merges: Sequence[str] | None = (),
    scores: Sequence[float] | None = None,
    arch: str = "llama",
    extra: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    **keys: Any,
) -> Path:
    """Write the vocabulary; `keys` are others below `tokenizer.ggml.`, an array for a list.

    `extra` may add more.
    """
    writer = gguf.GGUFWriter(path, arch)
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(tokens))
    if kinds is not None:
        writer.add_token_types(list(kinds))
    if scores is not None:
        writer.add_token_scores(list(scores))
    if merges is not None and model in ("gpt2", "gemma4"):
        writer.add_token_merges(list(merges) or ["a b"])
    for key, value in keys.items():
        add_key(writer, key if key.startswith("general") else f"tokenizer.ggml.{key}", value)
    extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_key(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    """A key with a list, a flag, a text or a number; `__` in its name stands for a dot."""
    name = name.replace("__", ".")
    if isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_uint32(name, value)


def byte_level(*extra: tuple[str, int]) -> tuple[list[str], list[int]]:
    """The 256 letters of the byte-level alphabet, `extra` tokens with kinds, and one merged."""
    tokens = [*ALPHABET, *(token for token, _ in extra), "ab"]
    return tokens, [NORMAL] * len(ALPHABET) + [kind for _, kind in extra] + [NORMAL]


def opened(path: Path) -> tuple[Tokenizer, TextAssets, tuple[str, ...]]:
    """The tokenizer that llmc makes of a file, with its text side and notes."""
    assets, notes = gguf_text_assets(GgufFile(path))
    assert assets.tokenizer is not None
    return Tokenizer(assets.tokenizer), assets, notes
