"""A serialized TensorRT for RTX engine: its profiles, and its header before it is loaded.

64 bytes, found by building for one SM after another (1.7.1); little-endian:

| at | bytes | what                                                             |
|----|-------|------------------------------------------------------------------|
| 0  | 4     | `vtrt`                                                           |
| 16 | 8     | size of the engine in bytes                                      |
| 24 | 4     | version of the library, a byte each: 1, 7, 1, 116                |
| 28 | 4     | `vtrt`                                                           |
| 32 | 4     | SMs, one bit each from the lowest: 75, 80, 86, 89, 120, 121      |
"""

import struct

from msgspec import Struct

from ...base.errors import LlmcError

DECODE, PREFILL = 0, 1
"""Its optimization profiles: rows of one token each, and one row of several."""
HEADER_BYTES = 64
MAGIC = b"vtrt"
SMS = (75, 80, 86, 89, 120, 121)


class EngineHeader(Struct, frozen=True):
    """`version` of the library that made the engine, and the SMs that it is for."""

    version: str
    sms: tuple[int, ...]


def read_header(engine: bytes | memoryview) -> EngineHeader:
    """The header of a whole engine.

    Errors: E0509, these bytes are no engine, or cut short.
    """
    head = bytes(engine[:HEADER_BYTES])
    if len(head) < HEADER_BYTES or head[:4] != MAGIC or head[28:32] != MAGIC:
        raise LlmcError("LLMC-E0509", "the program is no TensorRT for RTX engine")
    (nbytes,) = struct.unpack_from("<Q", head, 16)
    if nbytes != len(engine):
        raise LlmcError("LLMC-E0509", f"the engine has {len(engine)} bytes, it says {nbytes}")
    (mask,) = struct.unpack_from("<I", head, 32)
    sms = tuple(sm for bit, sm in enumerate(SMS) if mask >> bit & 1)
    return EngineHeader(".".join(map(str, head[24:28])), sms)


def check_engine(engine: bytes | memoryview, version: str, sms: tuple[int, ...]) -> None:
    """The engine is what the manifest says. Errors: E0509."""
    header = read_header(engine)
    if header.version != version:
        made = f"the engine was made by TensorRT {header.version}"
        raise LlmcError("LLMC-E0509", f"{made}, the manifest says {version}")
    if set(header.sms) != set(sms):
        raise LlmcError(
            "LLMC-E0509", f"the engine is for SMs {header.sms}, the manifest says {sms}"
        )
