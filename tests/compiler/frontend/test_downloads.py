"""The Hub: which of a model's files are fetched, and what is said where it doesn't deliver."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects, hf_raise_for_status
from llmc.base.errors import LlmcError
from llmc.compiler.frontend import downloads

pytestmark = pytest.mark.fast

FETCHED = [
    "LICENSE", "adapter_config.json", "adapter_model.safetensors", "added_tokens.json",
    "additional_chat_templates/tool_use.jinja", "chat_template.jinja", "config.json",
    "configuration_x.py", "generation_config.json", "merges.txt",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "vocab.json",
]  # fmt: skip
LEFT = [
    ".gitattributes", "README.md", "consolidated.00.pth", "consolidated.safetensors",
    "consolidated-00001-of-00002.safetensors", "consolidated.safetensors.index.json",
    "flax_model.msgpack", "ggml-model-Q4_K.gguf", "model.fp16.safetensors",
    "model.fp16-00001-of-00002.safetensors", "model-00001-of-00002.fp16.safetensors",
    "model.safetensors.index.fp16.json", "onnx/config.json", "onnx/model.onnx",
    "onnx/model.onnx_data", "optimizer.safetensors", "original/consolidated.00.pth",
    "original/model.safetensors", "original/params.json", "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin", "rust_model.ot", "tf_model.h5", "unet/model.safetensors",
]  # fmt: skip


def test_what_is_not_read_is_not_fetched() -> None:
    """By the Hub library's own reading of the patterns."""
    kept = filter_repo_objects(
        FETCHED + LEFT,
        allow_patterns=downloads._HUB_PATTERNS,
        ignore_patterns=downloads._NOT_READ,
    )
    assert list(kept) == FETCHED


def answer(status: int, **headers: str) -> Callable[..., str]:
    """A download that the Hub answers so, through the library's own errors."""
    request = httpx2.Request("GET", "https://huggingface.co/api/models/some/model")
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def download(*_: object, **__: object) -> str:
        hf_raise_for_status(httpx2.Response(status, headers=named, request=request))
        raise AssertionError("this status is an error")

    return download


def failing(error: Exception) -> Callable[..., str]:
    def download(*_: object, **__: object) -> str:
        raise error

    return download


CASES = {
    "gated": (answer(401, X_Error_Code="GatedRepo"), "LLMC-E0704", "is gated", "hf auth login"),
    "not listed": (answer(403, X_Error_Code="GatedRepo"), "LLMC-E0704", "is gated", "terms"),
    "gone": (answer(404, X_Error_Code="RepoNotFound"), "LLMC-E0704", "no such model", "id"),
    "unknown": (answer(401), "LLMC-E0704", "no such model", "id"),
    "revision": (
        answer(404, X_Error_Code="RevisionNotFound"), "LLMC-E0704", "has no revision v9", "",
    ),
    "down": (answer(503), "LLMC-E0704", "503", "connection"),
    "offline": (
        failing(LocalEntryNotFoundError("Got: ConnectError:\nno route")),
        "LLMC-E0704", "can't be reached", "HF_HUB_OFFLINE",
    ),
    "full": (failing(OSError(errno.ENOSPC, "No space left")), "LLMC-E0701", "written", ""),
    "read-only": (failing(OSError(errno.EROFS, "Read-only")), "LLMC-E0707", "written", ""),
    "nameless": (failing(RuntimeError()), "LLMC-E0704", "RuntimeError", "connection"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_why_the_hub_did_not_deliver(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    download, id, cause, hint = CASES[case]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(LlmcError) as caught:
        downloads.fetch_hub_snapshot("some/model", "v9")
    assert (caught.value.id, "\n" in caught.value.message) == (id, False)
    assert cause in caught.value.message
    assert "Request ID" not in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf"], "GGUF files (m-Q4_K_M.gguf)"),
        (["config.json", "pytorch_model.bin"], "pickled weights (pytorch_model.bin)"),
        (["config.json", "onnx/model.onnx"], "an ONNX export (onnx/model.onnx)"),
        (["config.json", "model.fp16.safetensors"], "variants alone"),
        (["sub/config.json", "sub/model.safetensors"], "some elsewhere (sub/model.safetensors)"),
    ],
)
def test_a_model_without_weights_to_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str], cause: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: names)
    with pytest.raises(LlmcError) as caught:
        downloads.fetch_hub_snapshot("some/model")
    assert caught.value.id == "LLMC-E0404"
    assert cause in caught.value.message
