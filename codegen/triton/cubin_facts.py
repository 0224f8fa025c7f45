"""What a cubin says about its kernel: registers, local and shared memory, parameters.

In: the bytes of a cubin with one kernel. Out: `CubinFacts`. A cubin is a 64-bit ELF file; beside
the code it has sections `.nv.info` (about functions, by their symbols) and `.nv.info.NAME` (about
one kernel): lists of attributes, each a format byte, the attribute's number and a value. NVIDIA
documents neither; `cuobjdump -elf` names what is read here, and the tests compare with it.
The bytes may be anything: every offset and size is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ...base.errors import LlmcError
from .kernel_spec import Parameter

_HEADER, _SECTION, _SYMBOL = "<16xHHIQQQIHHHHHH", "<IIQQQQIIQQ", "<IBBHQQ"
_CUDA, _FUNCTION, _NO_BITS, _STRINGS, _SYMBOLS = 190, 2, 8, 3, 2
_MAX_SECTIONS = 4096
# Formats of a value: none, one or two bytes within the attribute's four; or bytes behind them.
_INLINE, _SIZED = (1, 2, 3), 4
_PARAMETER_TABLE, _FRAME_SIZE, _REQUIRED_THREADS, _PARAMETER = 0x0A, 0x11, 0x10, 0x17
_PARAMETER_BYTES, _REGISTERS = 0x19, 0x2F


@dataclass(frozen=True, slots=True)
class CubinFacts:
    """Facts of the one kernel `name`.

    `registers` and `local` bytes of a thread; `static_shared` bytes of a block, without those that
    a launch asks for; `threads` of a block, 0 if any number will do; `parameters` in order, of
    `parameter_bytes` in all.
    """

    name: str
    registers: int
    local: int
    static_shared: int
    threads: int
    parameters: tuple[Parameter, ...]
    parameter_bytes: int


def read_facts(cubin: bytes) -> CubinFacts:
    """The facts of a cubin.

    Raises:
        LlmcError: LLMC-E0509, this isn't a cubin with one kernel.
    """
    try:
        return _Cubin(cubin).facts()
    except (struct.error, _Malformed) as error:
        raise LlmcError("LLMC-E0509", f"not a cubin of one kernel: {error}") from error


class _Malformed(Exception):
    """What is wrong with the bytes."""


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    offset: int
    nbytes: int
    link: int


class _Cubin:
    """An ELF file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        if data[:7] != b"\x7fELF\x02\x01\x01":
            raise _Malformed("no 64-bit ELF file")
        header = struct.unpack_from(_HEADER, data)
        machine, table, count, names = header[1], header[5], header[11], header[12]
        if machine != _CUDA or header[10] != struct.calcsize(_SECTION):
            raise _Malformed("for another kind of machine")
        self.sections = self._read_sections(table, count, names)

    def facts(self) -> CubinFacts:
        """See `read_facts`."""
        kernels = [s.name[9:] for s in self.sections if s.name.startswith(".nv.info.")]
        if len(kernels) != 1:
            raise _Malformed(f"{len(kernels)} kernels")
        name = kernels[0]
        own, shared = self._find(f".nv.info.{name}"), self._find(f".nv.shared.{name}")
        if own is None:
            raise _Malformed("no attributes")
        values = dict(self._attributes(own))
        parameters = [value for at, value in self._attributes(own) if at == _PARAMETER]
        threads = values.get(_REQUIRED_THREADS)
        return CubinFacts(
            name=name,
            registers=self._of_function(_REGISTERS, name),
            local=self._of_function(_FRAME_SIZE, name),
            static_shared=shared.nbytes if shared else 0,
            threads=_product(threads) if threads else 0,
            parameters=_parameters(parameters),
            parameter_bytes=_short(values.get(_PARAMETER_BYTES, bytes(2))),
        )

    def _read_sections(self, table: int, count: int, names: int) -> list[_Section]:
        if not names < count <= _MAX_SECTIONS:
            raise _Malformed(f"{count} sections")
        size = struct.calcsize(_SECTION)
        self._check(table, count * size)
        rows = list(struct.iter_unpack(_SECTION, self._data[table : table + count * size]))
        strings = self._strings(rows[names][4], rows[names][5])
        return [
            self._section(_text(strings, row[0]), row[1], row[4], row[5], row[6]) for row in rows
        ]

    def _section(self, name: str, kind: int, offset: int, nbytes: int, link: int) -> _Section:
        if kind != _NO_BITS:
            self._check(offset, nbytes)
        return _Section(name, kind, offset, nbytes, link)

    def _strings(self, offset: int, nbytes: int) -> bytes:
        self._check(offset, nbytes)
        return self._data[offset : offset + nbytes]

    def _check(self, offset: int, nbytes: int) -> None:
        if offset + nbytes > len(self._data):
            raise _Malformed("cut off")

    def _find(self, name: str) -> _Section | None:
        return next((section for section in self.sections if section.name == name), None)

    def _bytes(self, section: _Section) -> bytes:
        if section.kind == _NO_BITS:
            raise _Malformed(f"{section.name} has no bytes")
        return self._data[section.offset : section.offset + section.nbytes]

    def _attributes(self, section: _Section) -> Iterator[tuple[int, bytes]]:
        """Number and value of each attribute; two bytes of value where they stand within it."""
        data, at = self._bytes(section), 0
        while at < len(data):
            form, number, size = struct.unpack_from("<BBH", data, at)
            at += 4
            if form in _INLINE:
                yield number, data[at - 2 : at]
            elif form == _SIZED and at + size <= len(data):
                yield number, data[at : at + size]
                at += size
            else:
                raise _Malformed(f"an attribute of format {form} in {section.name}")

    def _of_function(self, attribute: int, name: str) -> int:
        """What `.nv.info` says of a function: pairs of its symbol and a number."""
        section, symbol = self._find(".nv.info"), self._symbol(name)
        for number, value in self._attributes(section) if section else ():
            if number == attribute and len(value) == 8:
                of, found = struct.unpack("<II", value)
                if of == symbol:
                    return found
        raise _Malformed(f"attribute {attribute:#x} of {name} is missing")

    def _symbol(self, name: str) -> int:
        table = next((section for section in self.sections if section.kind == _SYMBOLS), None)
        if table is None or table.link >= len(self.sections):
            raise _Malformed("no symbols")
        strings = self._bytes(self.sections[table.link])
        whole = self._bytes(table)[: table.nbytes // 24 * 24]
        for index, (at, info, *_) in enumerate(struct.iter_unpack(_SYMBOL, whole)):
            if info & 15 == _FUNCTION and _text(strings, at) == name:
                return index
        raise _Malformed(f"no function {name}")


def _parameters(values: list[bytes]) -> tuple[Parameter, ...]:
    """Each: an index, the ordinal, the offset; flags whose bits from 18 on are the size."""
    found: dict[int, Parameter] = {}
    for value in values:
        _, ordinal, offset, flags = struct.unpack("<IHHI", value)
        found[ordinal] = Parameter(offset, flags >> 18)
    if sorted(found) != list(range(len(values))):
        raise _Malformed("parameters are missing")
    return tuple(found[ordinal] for ordinal in range(len(values)))


def _product(threads: bytes) -> int:
    x, y, z = struct.unpack("<III", threads)
    return x * y * z


def _short(value: bytes) -> int:
    (number,) = struct.unpack("<H", value)
    return number


def _text(strings: bytes, at: int) -> str:
    end = strings.find(b"\0", at)
    if not 0 <= at <= end:
        raise _Malformed("a name is cut off")
    return strings[at:end].decode("utf-8", errors="replace")
