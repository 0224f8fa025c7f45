"""Files for shared libraries that are in an artifact: loaders know libraries by path only.

In: a library's bytes. Out: a path to load it from. Nothing is unpacked to disk where the system has
memory files; elsewhere a copy stands in a folder of this user only.
"""

import hashlib
import os
import stat
from pathlib import Path

from ...base.errors import LlmcError

_PATHS: dict[str, str] = {}
"""Path of each library, by digest. A memory file must stay open as long as its library is loaded
(/proc/self/fd/N would come to mean another one), and libraries are never unloaded."""


def library_path(data: bytes | memoryview) -> str:
    """Where the library in `data` can be loaded from; the same path for the same bytes."""
    digest = hashlib.sha256(data).hexdigest()
    if digest not in _PATHS:
        make = _memory_file if hasattr(os, "memfd_create") else cached_library
        _PATHS[digest] = str(make(data, digest))
    return _PATHS[digest]


def _memory_file(data: bytes | memoryview, digest: str) -> str:
    descriptor = os.memfd_create(f"llmc-{digest[:12]}", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    return f"/proc/self/fd/{descriptor}"


def cached_library(data: bytes | memoryview, digest: str) -> Path:
    """A copy named by its digest. Errors: E0509 if its folder isn't private to this user."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "llmc" / "programs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise LlmcError("LLMC-E0509", f"{folder} must be a private folder of this user (mode 0700)")
    path = folder / f"{digest}.so"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
        return path
    temporary = folder / f".{os.urandom(6).hex()}.tmp"
    temporary.write_bytes(data)
    temporary.replace(path)
    return path
