"""The one zip layout that artifacts have: pure functions between bytes and members.

Entries are stored, each one's data starts at a multiple of 64 KiB (the extra field of its local
header is the padding), the central directory is sorted by name, every timestamp is 1980-01-01,
and there is no comment. So the archive's structure follows from the members' names, sizes and
CRCs in the order of their data, and `parse` accepts an archive only if all bytes outside the data
are the ones that the functions here would write. That makes every hostile or damaged structure
(overlaps, compression, duplicates, flipped bits in padding) one case. Zip64 fields are used where
a size or offset needs them. Format: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.
"""

import re
import struct

from msgspec import Struct
from msgspec.structs import replace

from ..base.errors import LlmcError

ALIGNMENT = 65536
LOCAL_BYTES = 30
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END = struct.Struct("<IHHHHIIH")
_END64 = struct.Struct("<IQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<IIQI")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = 0x04034B50, 0x02014B50, 0x06054B50
_END64_MAGIC, _LOCATOR64_MAGIC = 0x06064B50, 0x07064B50
_DATE = 0x21  # 1980-01-01, the earliest date that the format knows
_PAD_ID = 0xD935  # the field other tools use for alignment, so readers skip it
_MAX32 = 0xFFFFFFFF
_MADE_BY = 3 << 8 | 45  # Unix, version 4.5: makes tools read the mode below
_MODE = 0o100644 << 16
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class Member(Struct, frozen=True):
    """One entry: `header` and `data` are offsets in the file, `size` counts bytes."""

    name: str
    size: int
    crc: int = 0
    header: int = 0
    data: int = 0


def valid_name(name: str) -> bool:
    """Relative, ASCII, no component that starts with a dot: safe to unpack anywhere."""
    return len(name) <= 255 and _NAME.fullmatch(name) is not None


def place(position: int, name: str, size: int) -> Member:
    """Where an entry goes whose header may start at `position`: the CRC is still unknown."""
    zip64 = 20 if size >= _MAX32 else 0
    fixed = _LOCAL.size + len(name) + zip64
    padding = -(position + fixed) % ALIGNMENT
    # A field of the extra block has 4 bytes at least, and the whole block 65535 at most; where
    # the padding can't be made so, the header starts a little later.
    while 0 < padding < 4 or padding + zip64 > 0xFFFF:
        position += 4
        padding = -(position + fixed) % ALIGNMENT
    return Member(name, size, header=position, data=position + fixed + padding)


def local_header(member: Member) -> bytes:
    """The bytes from `member.header` up to `member.data`."""
    big = member.size >= _MAX32
    size = _MAX32 if big else member.size
    extra = struct.pack("<HHQQ", 1, 16, member.size, member.size) if big else b""
    name = member.name.encode()
    padding = member.data - member.header - _LOCAL.size - len(name) - len(extra)
    if padding:
        extra += struct.pack("<HH", _PAD_ID, padding - 4) + bytes(padding - 4)
    version = 45 if big else 10
    fields = (version, 0, 0, 0, _DATE, member.crc, size, size, len(name), len(extra))
    return _LOCAL.pack(_LOCAL_MAGIC, *fields) + name + extra


def directory(members: list[Member], position: int) -> bytes:
    """The central directory and the end records, written at `position`, to the end of the file."""
    records = b"".join(_central_record(m) for m in sorted(members, key=lambda m: m.name))
    count, size = len(members), len(records)
    tail = b""
    if count >= 0xFFFF or position >= _MAX32 or size >= _MAX32:
        counts = (count, count, size, position)
        tail += _END64.pack(_END64_MAGIC, _END64.size - 12, _MADE_BY, 45, 0, 0, *counts)
        tail += _LOCATOR64.pack(_LOCATOR64_MAGIC, 0, position + size, 1)
        count, size, position = min(count, 0xFFFF), min(size, _MAX32), min(position, _MAX32)
    return records + tail + _END.pack(_END_MAGIC, 0, 0, count, count, size, position, 0)


def _central_record(member: Member) -> bytes:
    name = member.name.encode()
    size, header, extra, version = member.size, member.header, b"", 10
    if size >= _MAX32 or header >= _MAX32:
        extra = struct.pack("<HHQQQ", 1, 24, size, size, header)
        size, header, version = _MAX32, _MAX32, 45
    fields = (_MADE_BY, version, 0, 0, 0, _DATE, member.crc, size, size, len(name), len(extra))
    return _CENTRAL.pack(_CENTRAL_MAGIC, *fields, 0, 0, 0, _MODE, header) + name + extra


def parse(data: memoryview) -> dict[str, Member]:
    """The members of the archive in `data`, by name; E0502 or E0503 if it isn't one of ours."""
    if len(data) < 4 or data[:4] != _LOCAL_MAGIC.to_bytes(4, "little"):
        raise LlmcError("LLMC-E0502", "the file is not an llmc artifact")
    position = 0
    members = []
    for claimed in sorted(claimed_members(data), key=lambda m: m.header):
        member = replace(place(position, claimed.name, claimed.size), crc=claimed.crc)
        gap = bytes(member.header - position)
        if bytes(data[position : member.data]) != gap + local_header(member):
            raise damaged(f"the header of {member.name} is not as it was written")
        position = member.data + member.size
        members.append(member)
    if bytes(data[position:]) != directory(members, position):
        raise damaged("its directory is not as it was written")
    by_name = {m.name: m for m in members}
    if len(by_name) != len(members):
        raise damaged("two entries have the same name")
    return by_name


def claimed_members(data: memoryview) -> list[Member]:
    """What the central directory says, bounds-checked only so far that it can be read."""
    start, end = _directory_range(data)
    members = []
    while start < end:
        if end - start < _CENTRAL.size:
            raise damaged("its directory is cut short")
        fields = _CENTRAL.unpack_from(data, start)
        crc, size, name_size, extra_size, header = *fields[7:8], *fields[9:12], fields[16]
        name_end = start + _CENTRAL.size + name_size
        if fields[0] != _CENTRAL_MAGIC or name_end + extra_size > end:
            raise damaged("its directory is not readable")
        name = bytes(data[start + _CENTRAL.size : name_end]).decode("latin-1")
        if not valid_name(name):
            raise damaged(f"the entry name {name!r} is not allowed")
        if extra_size == 28:
            size, header = struct.unpack_from("<QQ", data, name_end + 12)
        members.append(Member(name, size, crc, header))
        start = name_end + extra_size
    return members


def local_sizes(data: memoryview, header: int) -> tuple[int, int]:
    """Sizes of name and extra field in the local header that starts at `header`."""
    if header + LOCAL_BYTES > len(data):
        raise damaged("an entry lies outside the file")
    return _LOCAL.unpack_from(data, header)[9:11]


def _directory_range(data: memoryview) -> tuple[int, int]:
    """Start and end of the central directory."""
    end = len(data) - _END.size
    if end < 0 or int.from_bytes(data[end : end + 4], "little") != _END_MAGIC:
        raise damaged("it has no end record, so it is cut short or was changed")
    size, start = _END.unpack_from(data, end)[5:7]
    locator = end - _LOCATOR64.size
    if locator >= 0 and int.from_bytes(data[locator : locator + 4], "little") == _LOCATOR64_MAGIC:
        end = _LOCATOR64.unpack_from(data, locator)[2]
        if end > locator - _END64.size:
            raise damaged("its end record is not readable")
        size, start = _END64.unpack_from(data, end)[8:10]
    if start + size != end:
        raise damaged("its end record is not readable")
    return start, end


def damaged(cause: str) -> LlmcError:
    """The error for an archive whose structure isn't one that we write."""
    return LlmcError("LLMC-E0503", f"the artifact is truncated or damaged: {cause}")
