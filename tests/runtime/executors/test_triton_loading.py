"""Launch plans come to a GPU in host memory, or are refused."""

from pathlib import Path
from threading import enumerate as enumerate_threads
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_gpu import FakeGpu
from llmc.artifact.manifest import Manifest, Source, Tensor, Weights
from llmc.artifact.reader import ArtifactReader
from llmc.artifact.writer import ArtifactWriter
from llmc.base.errors import LlmcError
from llmc.runtime.api.loading import open_artifact_program
from llmc.runtime.executors import triton
from llmc.runtime.executors.triton_loading import gpu_problem
from llmc.runtime.executors.triton_upload import upload
from toy_plan import (
    CUBINS,
    KEPT,
    POOLS,
    WEIGHTS,
    best,
    inputs_for,
    prompts_of,
    toy_executor,
    toy_kernels,
    toy_plan,
    toy_triton_variant,
)
from toy_program import safetensors


@pytest.mark.parametrize(
    "call", ["allocate", "allocate_pinned", "fill", "load_kernel", "upload", "create_event"]
)
def test_a_gpu_that_fails_while_it_is_loaded_is_closed(call: str) -> None:
    gpu = FakeGpu(toy_kernels())
    gpu.broken.add(call)
    with pytest.raises(LlmcError, match="E0722"):
        toy_executor(gpu)
    assert gpu.closed
    assert not any(thread.name.startswith("llmc-upload") for thread in enumerate_threads())


def test_what_a_gpu_can_not_run_is_refused_before_weights_are_read() -> None:
    facts = FakeGpu({}).facts
    plan = toy_plan()

    def cause(**changes: Any) -> str:
        problem = gpu_problem(plan, facts._replace(**changes))
        assert problem is None or problem.id == "LLMC-E0514"
        return problem.message if problem is not None else ""

    assert not cause()
    assert cause(sm=100) == "the kernels are for SM90; this GPU (fake) is SM100"
    assert "CUDA 12.2, the kernels need 12.3" in cause(driver=12020)
    assert "65536 bytes of shared memory; fake has 49152" in cause(shared_bytes=48 << 10)
    for sm, runs in ((80, True), (86, True), (89, True), (75, False), (90, False)):
        assert (gpu_problem(toy_plan(sm=80), facts._replace(sm=sm)) is None) == runs
    for changes, identifier in (({"sm": 89}, "E0514"), ({"free_memory": 100_000}, "E0601")):
        gpu = FakeGpu(toy_kernels(), facts=facts._replace(**changes))
        with pytest.raises(LlmcError, match=identifier):
            toy_executor(gpu)
        assert gpu.closed
        assert not gpu.done.calls.keys() & {"upload", "allocate", "load_kernel"}


def test_programs_that_do_not_fit_their_plan() -> None:
    plan = toy_plan()
    larger = msgspec.structs.replace(
        plan.kernels[0], parameter_bytes=60
    )  # 4 * 8 + 4, 4 of padding, 2 * 8
    kernels = [larger, *plan.kernels[1:]]
    with pytest.raises(LlmcError, match="takes 60 bytes of parameters, the plan has 56") as raised:
        toy_executor(plan=toy_plan(kernels=kernels))
    assert raised.value.id == "LLMC-E0509"
    missing = {k: v for k, v in toy_kernels().items() if k != "hash_rows"}
    with pytest.raises(LlmcError, match="E0509"):
        toy_executor(FakeGpu(missing))
    gpu = FakeGpu(toy_kernels())
    with pytest.raises(LlmcError, match="another interface version"):
        toy_executor(gpu, signature_version=2)
    assert gpu.closed


def test_why_a_variant_can_not_be_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = toy_triton_variant()
    refused = LlmcError("LLMC-E0703", "no bindings")

    def missing() -> Any:
        raise refused

    monkeypatch.setattr(triton.cuda_device, "cuda_driver", missing)
    assert triton.problem(variant) is refused
    monkeypatch.setattr(triton.cuda_device, "cuda_driver", lambda: None)
    monkeypatch.setattr(triton.cuda_device, "facts", lambda driver: FakeGpu({}).facts)
    assert triton.problem(variant) is None
    gpu = FakeGpu(toy_kernels())
    monkeypatch.setattr(triton.cuda_device, "CudaDevice", lambda: gpu)
    program = triton.open_program(
        variant, CUBINS, memoryview(WEIGHTS), threads=1, cache_blocks=(8, 8)
    )
    assert program.step(inputs_for([[5]], [1])).argmax == [best([5])]
    program.close()


def test_a_whole_artifact_is_opened_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan goes through the manifest and its checks. The first variant isn't for here."""
    variants = [
        toy_triton_variant(
            toy_plan(sm=sm), level=f"sm{sm}", program=f"programs/sm{sm}", system="any"
        )
        for sm in (100, 90)
    ]
    data, offset = safetensors(WEIGHTS)
    tensor = Tensor(offset=0, nbytes=len(WEIGHTS), format="i32", shape=[97])
    listed = Weights(data_offset=offset, nbytes=len(WEIGHTS), tensors={"w000": tensor})
    with ArtifactWriter(tmp_path / "toy.llmc") as writer:
        with writer.open_stream(variants[0].weights or "", len(data)) as stream:
            stream.write(data)
        for variant in variants:
            writer.add(variant.program, CUBINS)
        writer.add("LICENSE", b"Apache-2.0\n")
        writer.add("certificate.json", b"{}\n")
        manifest = Manifest(
            source=Source(id="test/toy"),
            variants=variants,
            weights={variants[0].weights or "": listed},
            tool_versions={"llmc": "0"},
        )
        writer.write_manifest(manifest)
    gpu = FakeGpu(toy_kernels(), seed=3)
    monkeypatch.setattr(triton.cuda_device, "cuda_driver", lambda: None)
    monkeypatch.setattr(triton.cuda_device, "facts", lambda driver: gpu.facts)
    monkeypatch.setattr(triton.cuda_device, "free_memory", lambda: 1 << 30)
    monkeypatch.setattr(triton.cuda_device, "CudaDevice", lambda: gpu)
    variant, program = open_artifact_program(ArtifactReader(tmp_path / "toy.llmc"))
    assert variant == variants[1]
    assert program.step(inputs_for([[5, 6]], [2])).argmax == [best([5, 6])]
    program.close()


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 200, 64 * 11 + 5])
def test_weights_go_up_in_pieces(nbytes: int) -> None:
    gpu = FakeGpu({}, seed=nbytes)
    gpu.attach()
    address, data = gpu.allocate(nbytes), np.random.default_rng(nbytes).bytes(nbytes)
    assert len(list(upload(gpu, address, memoryview(data), piece=64))) == -(-nbytes // 64)
    assert gpu.bytes_at(address, nbytes).tobytes() == data
    assert not gpu._pinned


def test_kernels_that_want_scratch_memory_get_it_for_all_their_blocks() -> None:
    gpu = FakeGpu(toy_kernels())
    program = toy_executor(gpu)
    program.step(inputs_for([[5]], [1]))
    written = [a for a in gpu._memory if (a.data[:64] == 7).all() and len(a.data) == 512]
    assert len(written) == 1  # 6 rows, 64 bytes each, rounded up
    program.close()


def test_what_is_kept_starts_as_zeros_and_lives_on() -> None:
    gpu = FakeGpu(toy_kernels())
    program = toy_executor(gpu)
    for length in (10, 20, 40):
        program.step(inputs_for(prompts_of(length), [length]))
    kept = program._spaces.kept + KEPT["count"].offset
    assert gpu.array(kept, np.int32, 1)[0] == 3
    assert program._spaces.address(POOLS[1]) == program._spaces.cache[1]
    program.close()
