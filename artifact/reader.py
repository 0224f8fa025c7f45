"""Opening an artifact: a path in, a checked manifest and mapped entries out.

Everything in the file is hostile until checked: the archive's structure (`archive.parse`), the
digests of all entries but the weights (`SHA256SUMS`, then the manifest), the manifest's own
consistency. Only then may a caller read an entry, let alone run it. Weights are checked for size
and bounds, and by digest when asked for. Failures are `LlmcError`s with exit code 5.
"""

import hashlib
import mmap
import re
from collections.abc import Mapping
from pathlib import Path

from ..base.errors import LlmcError
from . import archive
from .manifest import MANIFEST, SUMS, Manifest, check_version, decode, invalid
from .manifest_check import check

_SUMS_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]{1,255})\n")


class ArtifactReader:
    """An open artifact. `read` gives views of the mapped file: no copy, valid while kept."""

    def __init__(self, path: str | Path, *, verify_weights: bool = False) -> None:
        self.path = Path(path)
        self._entries = _open(self.path)
        if MANIFEST not in self._entries or SUMS not in self._entries:
            raise LlmcError("LLMC-E0502", f"{self.path} is not an llmc artifact: no {MANIFEST}")
        check_version(self._entries[MANIFEST])
        self._digests = _parse_sums(self._entries)
        self._require(MANIFEST)
        self.manifest: Manifest = decode(self._entries[MANIFEST])
        self._check_manifest()
        for name in self._digests:
            if verify_weights or name not in self.manifest.weights:
                self._require(name)

    @property
    def names(self) -> list[str]:
        """All entries, sorted."""
        return sorted(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all entries together."""
        return sum(len(view) for view in self._entries.values())

    def read(self, name: str) -> memoryview:
        """The bytes of an entry; E0503 if there is none of this name."""
        if name not in self._entries:
            raise LlmcError("LLMC-E0503", f"the artifact has no entry {name}")
        return self._entries[name]

    def weights_data(self, name: str) -> memoryview:
        """The data section of a weights entry: what tensor offsets count from."""
        return self._entries[name][self.manifest.weights[name].data_offset :]

    def matches_digest(self, name: str) -> bool:
        """Whether an entry still is what was written (`SHA256SUMS` itself: checked on opening)."""
        if name == SUMS:
            return True
        return hashlib.sha256(self._entries[name]).hexdigest() == self._digests[name]

    def close(self) -> None:
        """Lets go of the mapping; it goes away with the last view that somebody still keeps."""
        self._entries = {}

    def _require(self, name: str) -> None:
        if not self.matches_digest(name):
            raise LlmcError("LLMC-E0504", f"the entry {name} is not as it was written")

    def _check_manifest(self) -> None:
        check(self.manifest, {name: len(view) for name, view in self._entries.items()})
        for name, entry in self.manifest.entries.items():
            if entry.sha256 != self._digests[name]:
                raise LlmcError("LLMC-E0504", f"manifest and {SUMS} disagree about {name}")
        for name, weights in self.manifest.weights.items():
            header = int.from_bytes(self._entries[name][:8], "little")
            if 8 + header != weights.data_offset:
                raise invalid(f"{name}: its header ends elsewhere than the manifest says")


def _open(path: Path) -> dict[str, memoryview]:
    try:
        if path.is_dir():
            return _open_directory(path)
        data = _map(path)
    except OSError as error:
        raise LlmcError("LLMC-E0501", f"cannot open {path}: {error.strerror or error}") from error
    try:
        members = archive.parse(data)
    except LlmcError:
        _check_version_leniently(data)
        raise
    return {name: data[m.data : m.data + m.size] for name, m in members.items()}


def _open_directory(path: Path) -> dict[str, memoryview]:
    entries = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.name.startswith(".") or (file.is_dir() and not file.is_symlink()):
            continue
        if file.is_symlink() or not file.is_file() or not archive.valid_name(name):
            raise LlmcError("LLMC-E0503", f"{name!r} does not belong into an artifact")
        entries[name] = _map(file)
    return entries


def _map(path: Path) -> memoryview:
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise OSError(f"{path} is not a regular file")
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return memoryview(b"")  # an empty file can't be mapped
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _check_version_leniently(data: memoryview) -> None:
    """A later format may have another container: say so rather than "damaged"."""
    try:
        for member in archive.claimed_members(data):
            if member.name == MANIFEST:
                name_size, extra_size = archive.local_sizes(data, member.header)
                start = member.header + archive.LOCAL_BYTES + name_size + extra_size
                check_version(data[start : start + member.size])
    except LlmcError as error:
        if error.id == "LLMC-E0505":
            raise


def _parse_sums(entries: Mapping[str, memoryview]) -> dict[str, str]:
    """Digest by name; strict, so that a changed byte can't hide between the lines."""
    try:
        text = bytes(entries[SUMS]).decode("ascii")
    except UnicodeDecodeError as error:
        raise LlmcError("LLMC-E0504", f"{SUMS} is not as it was written") from error
    pairs = _SUMS_LINE.findall(text)
    digests = {name: sha for sha, name in pairs}
    names = sorted(set(entries) - {SUMS})
    if "".join(f"{digests.get(n)}  {n}\n" for n in names) != text:
        raise LlmcError("LLMC-E0504", f"{SUMS} does not list the entries of the artifact")
    return digests
