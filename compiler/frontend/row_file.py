"""Rows of a tensor in a file, by position: what the safetensors and the GGUF reader share.

In: an open file and where a tensor lies in it. Out: the bytes of the rows asked for. Files are read
with `pread`, not mapped: memory use stays that of the slices in flight, and a file that is cut
short while being read is an error instead of a signal.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...base.errors import LlmcError

_DIGEST_CHUNK = 1 << 22
_HEAD = 64


@dataclass(frozen=True, slots=True)
class Extent:
    """A tensor's bytes: `rows` rows of `row_bytes` from `offset` on."""

    offset: int
    rows: int
    row_bytes: int

    @property
    def stop(self) -> int:
        return self.offset + self.rows * self.row_bytes


class RowFile:
    """A file of tensors, open for reading; may be read from several threads."""

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            LlmcError: E0417, it isn't a regular file, or something else was downloaded in its
                place; E0707, it can't be opened.
        """
        self.path, self._fd = path, -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
        except OSError as error:
            raise LlmcError("LLMC-E0707", f"{path}: {error.strerror}") from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise LlmcError("LLMC-E0417", f"{path} is not a regular file")
        self.size = status.st_size
        found = not_the_file(bytes(self.read(0, min(self.size, _HEAD))))
        if found is not None or not self.size:
            self.close()
            what, hint = found or ("is empty", "")
            raise LlmcError("LLMC-E0417", f"{path} is damaged: it {what}", hint)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def read(self, offset: int, count: int) -> bytearray:
        """Exactly `count` bytes from `offset`.

        Raises:
            LlmcError: E0417, the file ends before; E0707, it can't be read.
        """
        buffer = bytearray(count)
        view, done = memoryview(buffer), 0
        while done < count:
            try:
                got = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                raise LlmcError("LLMC-E0707", f"{self.path}: {error.strerror}") from error
            if got == 0:
                raise LlmcError("LLMC-E0417", f"{self.path.name} ends at byte {offset + done}")
            done += got
        return buffer

    def rows(self, extent: Extent, rows: np.ndarray) -> np.ndarray:
        """The bytes of `rows` (any order) as u8 [len(rows), row_bytes].

        Rows that lie close together are read at once and then picked; far ones run by run.
        """
        if not len(rows):
            return np.empty((0, extent.row_bytes), np.uint8)
        low, high = int(rows.min()), int(rows.max()) + 1
        if low < 0 or high > extent.rows:
            raise IndexError(f"rows {low}:{high} of {extent.rows}")
        if high - low <= 2 * len(rows):
            span = self._span(extent, low, high)
            ordered = high - low == len(rows) and bool((np.diff(rows) == 1).all())
            return span if ordered else span[rows - low]
        out = np.empty((len(rows), extent.row_bytes), np.uint8)
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            first = int(rows[start])
            out[start:stop] = self._span(extent, first, first + int(stop - start))
        return out

    def columns(self, extent: Extent, start: int, stop: int) -> np.ndarray:
        """Bytes `start:stop` of every row as u8 [rows, stop - start]."""
        if not 0 <= start <= stop <= extent.row_bytes:
            raise IndexError(f"bytes {start}:{stop} of rows of {extent.row_bytes}")
        count = stop - start
        if 2 * count >= extent.row_bytes:
            span = self._span(extent, 0, extent.rows)
            return np.ascontiguousarray(span[:, start:stop])
        out = np.empty((extent.rows, count), np.uint8)
        for row, offset in enumerate(range(extent.offset + start, extent.stop, extent.row_bytes)):
            out[row] = np.frombuffer(self.read(offset, count), np.uint8)
        return out

    def _span(self, extent: Extent, low: int, high: int) -> np.ndarray:
        data = self.read(extent.offset + low * extent.row_bytes, (high - low) * extent.row_bytes)
        return np.frombuffer(data, np.uint8).reshape(high - low, extent.row_bytes)

    def sha256(self) -> str:
        """Digest of the whole file."""
        digest = hashlib.sha256()
        for offset in range(0, self.size, _DIGEST_CHUNK):
            digest.update(self.read(offset, min(_DIGEST_CHUNK, self.size - offset)))
        return digest.hexdigest()


def not_the_file(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins with `head` and was downloaded in another's place; what to do."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a pointer of Git LFS, not the file itself", "fetch the files: git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not the file itself", "download the file again, with its raw address"
    return None


def require_finite(values: np.ndarray, name: str) -> np.ndarray:
    """`values` if they hold neither NaN nor infinity.

    Raises:
        LlmcError: E0408, naming the tensor.
    """
    # One pass without a mask: a NaN or an infinity makes the sum one; so may finite values of
    # enormous size, so only then every element is looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = not np.isfinite(values.sum(dtype=np.float32))
    if suspect and not np.isfinite(values).all():
        kind = "NaN" if np.isnan(values).any() else "infinity"
        raise LlmcError("LLMC-E0408", f"tensor {name} holds {kind}")
    return values
