"""The GPU in host memory: late, poisoned, and strict."""

from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu, FakeKernel, FakeLaunch
from llmc.base.errors import LlmcError
from llmc.runtime.executors.gpu_device import LaunchShape

SHAPE = LaunchShape(128)


def add(launch: FakeLaunch) -> None:
    x, y, count, scale = launch.args
    launch.array(y, np.float32, count)[:] += scale * launch.array(x, np.float32, count)


KERNELS = {"add": FakeKernel(("ptr", "ptr", "i32", "f32"), add)}
LAYOUT = KERNELS["add"].layout


@pytest.fixture
def gpu() -> FakeGpu:
    gpu = FakeGpu(KERNELS)
    gpu.attach()
    return gpu


def test_parameters_have_the_layout_of_c() -> None:
    assert LAYOUT.size == 8 + 8 + 4 + 4 + 8 + 8
    odd = FakeKernel(("i32", "ptr", "f32", "i64", "i32"), add).layout
    assert odd.size == 4 + 4 + 8 + 4 + 4 + 8 + 4 + 4 + 16
    assert odd.pack(1, 2, 3.0, 4, 5, 6, 7)[8:16] == (2).to_bytes(8, "little")


def test_memory_is_poison_until_it_is_written(gpu: FakeGpu) -> None:
    address = gpu.allocate(10)
    assert address % 256 == 0
    assert (gpu.bytes_at(address, 10) == 0xA5).all()
    assert (np.frombuffer(gpu.allocate_pinned(5), np.uint8) == 0xA5).all()
    for wrong, nbytes in ((address + 1, 10), (address - 1, 1), (1, 1)):
        with pytest.raises(AssertionError):
            gpu.bytes_at(wrong, nbytes)


def test_all_is_late_and_in_order(gpu: FakeGpu) -> None:
    address, host = gpu.allocate(4), gpu.allocate_pinned(4)
    host[:] = b"abcd"
    early, event = gpu.create_event(), gpu.create_event()
    gpu.record(early)
    gpu.upload(address, host)
    gpu.record(event)
    gpu.fill(address + 1, 7, 2)
    gpu.wait(early)
    assert (gpu.bytes_at(address, 4) == 0xA5).all()
    host[0:1] = b"z"  # too early: it isn't read yet
    gpu.wait(event)
    assert gpu.bytes_at(address, 4).tobytes() == b"zbcd"
    gpu.synchronize()
    assert gpu.bytes_at(address, 4).tobytes() == b"z\7\7d"
    gpu.download(host, address)
    assert bytes(host) == b"\xa5" * 4
    gpu.synchronize()
    assert bytes(host) == b"z\7\7d"
    assert gpu.done.nbytes == {"upload": 4, "download": 4}


def test_a_seed_makes_some_things_earlier() -> None:
    seen = set()
    for seed in range(20):
        gpu = FakeGpu(KERNELS, seed=seed)
        gpu.attach()
        address = gpu.allocate(1)
        for value in range(5):
            gpu.fill(address, value, 1)
        seen.add(int(gpu.bytes_at(address, 1)[0]))
        gpu.synchronize()
        assert gpu.bytes_at(address, 1)[0] == 4
    assert len(seen) > 2


def test_graphs_record_launches_and_repeat_them(gpu: FakeGpu) -> None:
    x, y, host = gpu.allocate(12), gpu.allocate(12), gpu.allocate_pinned(12)
    kernel = gpu.load_kernel(memoryview(b"cubin"), "add", 0)
    host[:] = np.arange(3, dtype=np.float32).tobytes()
    gpu.upload(x, host)
    gpu.fill(y, 0, 12)
    gpu.begin_capture()
    gpu.launch(kernel, (1, 1, 1), SHAPE, LAYOUT.pack(x, y, 3, 0.5, 0, 0))
    with pytest.raises(AssertionError, match="recorded"):
        gpu.synchronize()
    graph = gpu.end_capture()
    gpu.synchronize()
    assert gpu.array(y, np.float32, 3).tolist() == [0, 0, 0]
    for _ in range(4):
        gpu.replay(graph)
    gpu.synchronize()
    assert gpu.array(y, np.float32, 3).tolist() == [0, 2, 4]
    assert gpu.launches == [("add", (1, 1, 1))] * 4


def test_launches_that_a_gpu_would_not_survive(gpu: FakeGpu) -> None:
    x = gpu.allocate(12)
    kernel = gpu.load_kernel(memoryview(b"cubin"), "add", 0)
    good = LAYOUT.pack(x, x, 3, 0.5, 0, 0)
    shapes = (LaunchShape(33), LaunchShape(2048), LaunchShape(32, shared=64 << 10))
    bad: list[tuple[Any, ...]] = [((1, 1, 1), shape, good) for shape in shapes]
    bad += [((0, 1, 1), SHAPE, good), ((1, 1 << 16, 1), SHAPE, good)]
    bad += [((1, 1, 1), SHAPE, good[:-8]), ((1, 1, 1), SHAPE, good + bytes(8))]
    bad += [((1, 1, 1), SHAPE, LAYOUT.pack(5, x, 3, 0.5, 0, 0))]
    for arguments in bad:
        with pytest.raises(AssertionError):
            gpu.launch(kernel, *arguments)
    gpu.launch(kernel, (1, 1, 1), SHAPE, LAYOUT.pack(x, x, 4, 0.5, 0, 0))
    with pytest.raises(AssertionError, match="leave an allocation of 12"):
        gpu.synchronize()


def test_hosts_that_break_the_rules(gpu: FakeGpu) -> None:
    address = gpu.allocate(8)
    with pytest.raises(AssertionError, match="pinned"):
        gpu.upload(address, memoryview(bytearray(8)))
    with pytest.raises(AssertionError, match="itself"):
        gpu.copy(address, address + 2, 4)
    gpu._thread = -1
    with pytest.raises(AssertionError, match="attached"):
        gpu.fill(address, 0, 1)
    gpu.attach()
    with pytest.raises(LlmcError, match="E0601"):
        gpu.allocate(2 << 30)
    with pytest.raises(LlmcError, match="E0509"):
        gpu.load_kernel(memoryview(b"cubin"), "subtract", 0)
    gpu.broken.add("fill")
    with pytest.raises(LlmcError, match="E0722"):
        gpu.fill(address, 0, 1)
    gpu.close()
    with pytest.raises(AssertionError, match="after close"):
        gpu.copy(address, address + 4, 4)
