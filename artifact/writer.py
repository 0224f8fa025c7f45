"""Writing an artifact: entries in, one file (or one directory) out, all of it or nothing.

Everything goes to a temporary name beside the target, is synced and then renamed; an error,
Ctrl-C or SIGTERM removes the temporary. Entries are hashed while they pass through, so weights of
any size need no memory. `reader.py` is the other direction.
"""

import errno
import hashlib
import mmap
import os
import secrets
import shutil
import signal
import threading
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Protocol

import msgspec

from ..base.errors import LlmcError
from . import archive
from .manifest import CERTIFICATE, MANIFEST, SUMS, Entry, Manifest, encode
from .manifest_check import check

_CHUNK = 1 << 20


class _Sink(Protocol):
    """Where entries go: a zip or a directory. One entry is open at a time."""

    temporary: Path

    def begin(self, name: str, size: int) -> BinaryIO: ...
    def end(self, name: str, crc: int) -> None: ...
    def locate(self, name: str) -> tuple[Path, int]: ...
    def commit(self, target: Path) -> None: ...
    def abort(self) -> None: ...


class _ZipSink:
    """Entries behind one another in one file; a header gets its CRC once the data is there."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self._file = temporary.open("xb+", buffering=_CHUNK)
        self._members: dict[str, archive.Member] = {}
        self._end = 0

    def begin(self, name: str, size: int) -> BinaryIO:
        member = archive.place(self._end, name, size)
        self._file.write(bytes(member.header - self._end) + archive.local_header(member))
        self._members[name] = member
        return self._file

    def end(self, name: str, crc: int) -> None:
        member = msgspec.structs.replace(self._members[name], crc=crc)
        self._members[name] = member
        self._end = member.data + member.size
        self._file.seek(member.header)
        self._file.write(archive.local_header(member))
        self._file.seek(self._end)

    def locate(self, name: str) -> tuple[Path, int]:
        self._file.flush()
        return self.temporary, self._members[name].data

    def commit(self, target: Path) -> None:
        self._file.write(archive.directory(list(self._members.values()), self._end))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.temporary.replace(target)

    def abort(self) -> None:
        with suppress(OSError):  # the disk is full: what was buffered is to be lost anyway
            self._file.close()
        self.temporary.unlink(missing_ok=True)


class _DirectorySink:
    """Each entry is a file of its own."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        temporary.mkdir()
        self._file: BinaryIO | None = None

    def begin(self, name: str, size: int) -> BinaryIO:
        path = self.temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("xb")
        return self._file

    def end(self, name: str, crc: int) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def locate(self, name: str) -> tuple[Path, int]:
        return self.temporary / name, 0

    def commit(self, target: Path) -> None:
        old = _temporary_name(target)
        if target.exists():
            target.rename(old)  # a directory can't be renamed onto one that has files
        try:
            self.temporary.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def abort(self) -> None:
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self.temporary, ignore_errors=True)


class EntryStream:
    """A file to write one entry to; exactly `size` bytes must have come when it is closed."""

    def __init__(self, writer: "ArtifactWriter", name: str, size: int, file: BinaryIO) -> None:
        self._writer, self._name, self._size, self._file = writer, name, size, file
        self._written, self._crc, self._sha = 0, 0, hashlib.sha256()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Appends `data` (any contiguous buffer, numpy arrays included); its size in bytes."""
        view = memoryview(data).cast("B")
        with _translated(self._writer.path):
            self._file.write(view)
        self._crc = zlib.crc32(view, self._crc)
        self._sha.update(view)
        self._written += len(view)
        return len(view)

    def close(self) -> None:
        if self._written != self._size:
            raise LlmcError(
                "LLMC-E0100", f"{self._name}: {self._written} bytes came, not {self._size}"
            )
        entry = Entry(sha256=self._sha.hexdigest(), size=self._size)
        self._writer._finish_entry(self._name, entry, self._crc)

    def __enter__(self) -> "EntryStream":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()


class ArtifactWriter:
    """Writes one artifact.

        with ArtifactWriter(path) as writer:
            with writer.open_stream("weights/main.safetensors", size) as stream: ...
            writer.add("tokenizer.json", Path(...))
            writer.write_manifest(manifest)      # fills in `entries`; the last call

    Leaving the block normally puts the artifact in place; leaving it with an exception leaves
    nothing. Errors: E0701 disk full, E0702 target not writable, E0707 other system errors.
    """

    def __init__(self, path: str | Path, *, format: Literal["file", "dir"] = "file") -> None:
        self.path = Path(path)
        self.entries: dict[str, Entry] = {}
        self._format = format
        self._open: str | None = None
        self._sealed = False
        self._signals: AbstractContextManager[None] | None = None

    def __enter__(self) -> "ArtifactWriter":
        self._signals = terminate_as_exit()
        self._signals.__enter__()
        try:
            with _translated(self.path):
                check_target(self.path, self._format)
                sink = _ZipSink if self._format == "file" else _DirectorySink
                self._sink: _Sink = sink(_temporary_name(self.path))
        except BaseException:
            self._signals.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._signals is not None
        try:
            if kind is None:
                self._commit()
            else:
                self._sink.abort()
        finally:
            self._signals.__exit__(None, None, None)

    def add(self, name: str, data: bytes | Path) -> Entry:
        """Writes a whole entry from memory or from a file."""
        if isinstance(data, bytes):
            with self.open_stream(name, len(data)) as stream:
                stream.write(data)
            return self.entries[name]
        with data.open("rb") as file, self.open_stream(name, data.stat().st_size) as stream:
            while chunk := file.read(_CHUNK):
                stream.write(chunk)
        return self.entries[name]

    def open_stream(self, name: str, size: int) -> EntryStream:
        """A stream for an entry of exactly `size` bytes; one is open at a time."""
        if self._sealed or self._open is not None or name in self.entries:
            raise LlmcError("LLMC-E0100", f"the entry {name} comes twice or out of turn")
        if not archive.valid_name(name):
            raise LlmcError("LLMC-E0100", f"the entry name {name!r} is not allowed")
        with _translated(self.path):
            if shutil.disk_usage(self.path.parent).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file = self._sink.begin(name, size)
        self._open = name
        return EntryStream(self, name, size, file)

    def view(self, name: str) -> memoryview:
        """The bytes of a finished entry, mapped: a program can run before the artifact is done."""
        path, offset = self._sink.locate(name)
        size = self.entries[name].size
        if size == 0:
            return memoryview(b"")
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), offset + size, access=mmap.ACCESS_READ)
        return memoryview(mapped)[offset : offset + size]

    def write_manifest(self, manifest: Manifest) -> Manifest:
        """Writes the manifest with the entries filled in, and the digests of all; returns it."""
        entries = {n: e for n, e in sorted(self.entries.items()) if n != CERTIFICATE}
        manifest = msgspec.structs.replace(manifest, entries=entries)
        check(manifest, {name: entry.size for name, entry in self.entries.items()})
        self.add(MANIFEST, encode(manifest))
        self.add(SUMS, render_sums({name: entry.sha256 for name, entry in self.entries.items()}))
        self._sealed = True
        return manifest

    def _finish_entry(self, name: str, entry: Entry, crc: int) -> None:
        with _translated(self.path):
            self._sink.end(name, crc)
        self.entries[name] = entry
        self._open = None

    def _commit(self) -> None:
        try:
            if not self._sealed:
                raise LlmcError("LLMC-E0100", "the artifact has no manifest")
            with _translated(self.path):
                self._sink.commit(self.path)
                _sync_directory(self.path.parent)
        except BaseException:
            self._sink.abort()
            raise


def render_sums(digests: dict[str, str]) -> bytes:
    """`SHA256SUMS` as `sha256sum -c` reads it, sorted by name, without itself."""
    return "".join(f"{sha}  {name}\n" for name, sha in sorted(digests.items())).encode()


def os_error(error: OSError, path: Path) -> LlmcError:
    """The error a user sees when the system refuses to write `path`."""
    cause = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return LlmcError("LLMC-E0701", f"no space left to write {path} ({cause})")
    denied = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
    if error.errno in (*denied, errno.ENOTEMPTY, errno.EEXIST, errno.ENAMETOOLONG):
        return LlmcError("LLMC-E0702", f"cannot write {path}: {cause}")
    return LlmcError("LLMC-E0707", f"cannot write {path}: {cause}")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise os_error(error, path) from error


@contextmanager
def terminate_as_exit() -> Iterator[None]:
    """While it is open, SIGTERM raises SystemExit(143), so that `finally` and `with` clean up.

    Does nothing outside the main thread, or where somebody has already set a handler.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def check_target(path: Path, format: str) -> None:
    """Refuses targets that can't be written, or that a rename would destroy or fail on.

    For before any work is done; errors: E0701, E0702, E0707.
    """
    with _translated(path):
        if not path.name:
            raise LlmcError("LLMC-E0702", f"cannot write {str(path)!r}: it names no file")
        _check_kind(path, format)
        probe = _temporary_name(path)
        probe.mkdir()
        probe.rmdir()


def _check_kind(path: Path, format: str) -> None:
    if format == "file" and path.exists() and not path.is_file():
        raise LlmcError("LLMC-E0702", f"cannot write {path}: it is not a regular file")
    if format == "dir" and path.exists():
        ours = path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir()))
        if not ours:
            raise LlmcError("LLMC-E0702", f"cannot write {path}: it is not an artifact directory")


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _sync_directory(path: Path) -> None:
    """Makes the rename itself durable; not every file system lets a directory be synced."""
    descriptor = os.open(path, os.O_RDONLY)
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
