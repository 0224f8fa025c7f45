"""Facts of cubins are those that ptxas and cuobjdump print; broken files are refused."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from cubin_cases import add, product, widest
from llmc.base.errors import LlmcError
from llmc.codegen.triton.cubin_facts import read_facts
from llmc.codegen.triton.kernel_build import build_kernel
from llmc.codegen.triton.kernel_spec import Cubin, KernelSpec
from triton import knobs
from triton.backends.nvidia.compiler import get_ptxas

SPECS = {"add": add(num_warps=2), "product": product(), "widest": widest()}
SMS = (80, 90)


@pytest.fixture(scope="module")
def cubins() -> dict[tuple[str, int], Cubin]:
    return {
        (name, sm): build_kernel(spec, sm, keep_ptx=True)
        for name, spec in SPECS.items()
        for sm in SMS
    }


CASES = [(name, sm) for name in SPECS for sm in SMS]


@pytest.mark.parametrize("case", CASES)
def test_facts_are_what_ptxas_says(
    case: tuple[str, int], cubins: dict[tuple[str, int], Cubin], tmp_path: Path
) -> None:
    cubin, sm = cubins[case], case[1]
    (tmp_path / "k.ptx").write_text(cubin.ptx)
    arch = f"sm_{sm}{'a' if sm >= 90 else ''}"
    command = [get_ptxas(sm).path, "-v", "--regAllocOptLevel=2", f"--gpu-name={arch}"]
    command += [str(tmp_path / "k.ptx"), "-o", str(tmp_path / "k.cubin")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    facts = read_facts(cubin.data)
    stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", said)
    registers = re.search(r"Used (\d+) registers", said)
    assert stack is not None
    assert registers is not None
    assert (facts.registers, facts.local) == (int(registers[1]), int(stack[1]))
    assert (facts.local > 0) == (int(stack[2]) > 0) == (case[0] == "widest")


@pytest.mark.parametrize("case", CASES)
def test_facts_are_what_cuobjdump_prints(
    case: tuple[str, int], cubins: dict[tuple[str, int], Cubin], tmp_path: Path
) -> None:
    file = tmp_path / "k.cubin"
    file.write_bytes(cubins[case].data)
    tool = knobs.nvidia.cuobjdump.path

    def printed(*flags: str) -> str:
        done = subprocess.run([tool, *flags, str(file)], capture_output=True, text=True, check=True)
        return done.stdout

    facts = read_facts(cubins[case].data)
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", printed("-res-usage"))
    assert usage is not None
    assert usage.groups() == tuple(map(str, (facts.registers, facts.local, facts.static_shared)))
    elf = printed("-elf")
    found = re.findall(r"Ordinal : (0x\w+)\s+Offset\s+: (0x\w+)\s+Size\s+: (0x\w+)", elf)
    wanted = sorted(tuple(int(number, 16) for number in row) for row in found)
    assert [(i, p.offset, p.nbytes) for i, p in enumerate(facts.parameters)] == wanted
    of_all = re.search(r"EIATTR_CBANK_PARAM_SIZE\s+Format:\s+EIFMT_HVAL\s+Value:\s+(0x\w+)", elf)
    threads = re.search(r"EIATTR_REQNTID\s+Format:\s+EIFMT_SVAL\s+Value:\s+(0x\w+) 0x1 0x1", elf)
    assert of_all is not None
    assert threads is not None
    assert facts.parameter_bytes == int(of_all[1], 16)
    assert facts.threads == int(threads[1], 16) == 32 * SPECS[case[0]].num_warps
    assert facts.name == case[0]


def test_parameters_follow_the_types(cubins: dict[tuple[str, int], Cubin]) -> None:
    """Three pointers, two numbers of 4 bytes, and Triton's two pointers."""
    facts = read_facts(cubins["add", 90].data)
    assert [(p.offset, p.nbytes) for p in facts.parameters] == [
        *((0, 8), (8, 8), (16, 8), (24, 4), (28, 4), (32, 8), (40, 8)),
    ]


@pytest.fixture(scope="module")
def small() -> bytes:
    return build_kernel(add(), 90).data


def refused(data: bytes) -> bool:
    """Whether LLMC-E0509 says no; other exceptions fail the test."""
    identifier = None
    try:
        read_facts(data)
    except LlmcError as error:
        identifier = error.id
    assert identifier in (None, "LLMC-E0509")
    return identifier is not None


def test_what_is_no_cubin_is_refused(small: bytes) -> None:
    assert refused(b"")
    assert refused(b"\x7fELF")
    assert refused(small[:64])
    assert refused(bytes(len(small)))
    assert refused(small[:18] + struct.pack("<H", 62) + small[20:])  # for x86-64
    assert refused(small.replace(b".nv.info.add", b".nv.inf0.add"))
    assert not refused(small)


def test_files_cut_off_anywhere_are_refused(small: bytes) -> None:
    """The table of sections lies behind what it is about."""
    (table,), (count,) = struct.unpack_from("<Q", small, 40), struct.unpack_from("<H", small, 60)
    end = table + 64 * count
    assert all(refused(small[:size]) for size in [*range(0, end, 97), end - 1])
    assert not refused(small[:end])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_broken_files_never_do_more_than_be_refused(small: bytes, data: st.DataObject) -> None:
    broken = bytearray(small)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(small) - 8))
        broken[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    refused(bytes(broken))


def test_every_byte_of_the_tables_may_be_wrong(small: bytes) -> None:
    """Where the structure lies, each byte in turn: bits turned over."""
    table = struct.unpack_from("<Q", small, 40)[0]
    places = [*range(64), *range(table, len(small)), *range(small.index(b".nv.info"), table, 13)]
    for at in places:
        broken = bytearray(small)
        broken[at] ^= 0xFF
        refused(bytes(broken))


def test_specs_are_told_apart_by_the_types_of_constants() -> None:
    specs: set[KernelSpec] = {add(1), add(True), add(1.0), add(1)}
    assert len(specs) == 3
