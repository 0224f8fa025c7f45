"""The ctypes executor with a library that speaks llmc.h."""

import ctypes
import os
import threading

import msgspec
import numpy as np
import pytest
from llmc.artifact.program import StepInputs
from llmc.base.errors import LlmcError
from llmc.runtime.engine.engine import Engine, Request
from llmc.runtime.executors import cpu
from llmc.runtime.executors import native_memory as memory
from llmc.runtime.executors.native_library import cached_library
from toy_program import build_toy

WEIGHTS = (0x0123456789ABCDEF).to_bytes(8, "little") + bytes(4088)


@pytest.fixture
def program(toy_library, make_variant):
    weights = np.zeros(8192, np.uint8)
    weights[:4096] = np.frombuffer(WEIGHTS, np.uint8)
    aligned = weights.data[-weights.ctypes.data % 64 :]
    aligned[:4096] = WEIGHTS
    program = cpu.CpuExecutor(
        make_variant(), toy_library, aligned, threads=1, cache_blocks=(40, 24)
    )
    yield program
    program.close()


def one_token(**changes) -> StepInputs:
    inputs = {
        "token_ids": [5],
        "positions": [0],
        "query_start": [0, 1],
        "context_len": [1],
        "logits_rows": [0],
        "block_tables": ([[0]], [[0]]),
    }
    return StepInputs(**{**inputs, **changes})


def test_it_computes_what_the_numpy_toy_computes(program, toy):
    engine = Engine(program)
    prompts = [[n * 7 % 97 for n in range(length)] for length in (3, 60, 150, 1)]
    requests = [Request(tuple(prompt), 50) for prompt in prompts]
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
    assert [r.output for r in requests] == [toy.greedy(prompt, 50) for prompt in prompts]


def test_logits_and_argmax_come_back(program, toy):
    outputs = program.step(one_token())
    assert outputs.logits.shape == (1, 97)
    np.testing.assert_array_equal(outputs.logits[0], toy.logits([5]))
    assert outputs.argmax == [int(toy.logits([5]).argmax())]
    assert program.step(one_token(logits_rows=[])).logits.shape == (0, 97)


@pytest.mark.parametrize(
    "bad",
    [
        {"token_ids": [97]},
        {"token_ids": [-1]},
        {"token_ids": [], "positions": []},
        {"token_ids": [0] * 49, "positions": list(range(49))},
        {"positions": [1]},
        {"positions": [0, 1]},
        {"query_start": [0, 2]},
        {"query_start": [1, 1]},
        {"query_start": [0]},
        {"context_len": [0]},
        {"context_len": [33], "positions": [32]},
        {"context_len": [321], "positions": [320]},
        {"logits_rows": [1]},
        {"logits_rows": [-1]},
        {"logits_rows": [0] * 7},
        {"block_tables": ([[0]],)},
        {"block_tables": ([[0], [0]],) * 2},
        {"block_tables": ([[]], [[0]])},
        {"block_tables": ([[0] * 11], [[0]])},
        {"block_tables": ([[40]], [[0]])},
        {"block_tables": ([[0]], [[-1]])},
    ],
    ids=str,
)
def test_inputs_that_native_code_must_not_see_stop_at_the_border(program, bad):
    with pytest.raises(LlmcError, match="E0100"):
        program.step(one_token(**bad))


def test_close_twice_and_then_nothing(program):
    program.close()
    program.close()
    with pytest.raises(LlmcError, match="closed"):
        program.step(one_token())


def test_an_error_code_of_the_library_is_an_error(program):
    program._inputs.struct_size = 1
    with pytest.raises(LlmcError, match=r"E0102.*code -1"):
        program.step(one_token())


def test_the_interface_lock_is_free_during_a_step(program):
    """A thread runs Python while the library waits for it: impossible if the lock were held."""
    entered, proceed = threading.Event(), threading.Event()
    original = program._library.llmc_step

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    def slow(model, inputs):
        entered.set()
        return original(model, inputs) if proceed.wait(10) else 1

    def helper():
        entered.wait(10)
        proceed.set()

    class Library:
        llmc_step = slow
        llmc_destroy = program._library.llmc_destroy

    program._library = Library()
    thread = threading.Thread(target=helper)
    thread.start()
    program.step(one_token())
    thread.join()


def test_a_library_that_is_none_is_refused():
    for data in (b"", b"\x7fELF" + bytes(100), b"MZ"):
        with pytest.raises(LlmcError, match="E0509"):
            cpu.load_library(data)


def test_another_interface_version_is_refused(toy_library, make_variant):
    data = toy_library.replace(b"2;toy", b"9;toy")
    assert data != toy_library
    with pytest.raises(LlmcError, match="9;toy"):
        cpu.load_library(data)
    with pytest.raises(LlmcError, match="E0509"):
        cpu.CpuExecutor(
            make_variant(signature_version=2),
            toy_library,
            memoryview(WEIGHTS),
            threads=1,
            cache_blocks=(1, 1),
        )


def test_a_library_with_the_first_interface_goes_on_to_run(tmp_path, make_variant, toy):
    """Its structs end before what was added since, and it checks their sizes."""
    weights = np.zeros(8192, np.uint8)
    aligned = weights.data[-weights.ctypes.data % 64 :]
    aligned[:4096] = WEIGHTS
    library = build_toy(tmp_path, "-DABI=1")
    assert cpu.load_library(library).llmc_abi() == b"1;toy"
    variant = make_variant(abi_version=1)
    program = cpu.CpuExecutor(variant, library, aligned, threads=1, cache_blocks=(40, 24))
    np.testing.assert_array_equal(program.step(one_token()).logits[0], toy.logits([5]))
    program.close()


def test_equal_libraries_are_loaded_once_and_others_apart(toy_library):
    """The pitfall: the loader knows libraries by path, and descriptors are used again."""
    first = cpu.load_library(toy_library)
    other = cpu.load_library(toy_library.replace(b"2;toy", b"2;abc"))
    assert cpu.load_library(bytes(toy_library)) is first
    assert (first.llmc_abi(), other.llmc_abi()) == (b"2;toy", b"2;abc")


def test_the_cache_folder_where_there_are_no_memory_files(tmp_path, monkeypatch, toy_library):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delattr(os, "memfd_create")
    cpu.load_library(toy_library.replace(b"2;toy", b"2;dir"))
    folder = tmp_path / "llmc" / "programs"
    (file,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    digest = file.stem
    file.unlink()  # the loaded library itself must stay as it is
    file.write_bytes(b"changed by somebody")
    assert cached_library(b"x", digest).read_bytes() == b"x"  # never loads what isn't it
    folder.chmod(0o755)
    with pytest.raises(LlmcError, match="private"):
        cached_library(b"y", digest)


@pytest.mark.parametrize(("code", "error"), [(-3, "E0600"), (-4, "E0506.*AMX"), (-9, "E0509")])
def test_a_program_that_does_not_start_says_why(monkeypatch, make_variant, code, error):
    class Refusing:
        def llmc_create(self, *_):
            return code

    monkeypatch.setattr(cpu, "load_library", lambda _: Refusing())
    with pytest.raises(LlmcError, match=error):
        cpu.CpuExecutor(make_variant(), b"", memoryview(WEIGHTS), threads=1, cache_blocks=(1, 1))


def test_memory_that_cannot_be_had_is_named(toy_library, make_variant):
    plan = make_variant().memory_plan
    huge = make_variant(memory_plan=msgspec.structs.replace(plan, arena_bytes=1 << 52))
    limits = msgspec.structs.replace(make_variant().limits, max_sequences=2**31 - 1)
    for variant in (huge, make_variant(limits=limits)):
        with pytest.raises(LlmcError, match="E0601"):
            cpu.CpuExecutor(
                variant, toy_library, memoryview(WEIGHTS), threads=1, cache_blocks=(1, 1)
            )


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_the_address_of_a_buffer_is_where_its_bytes_lie(kind):
    data = bytes(range(64))
    view = memoryview(kind(data))[3:]
    assert ctypes.string_at(memory.address_of(view), 4) == data[3:7]
