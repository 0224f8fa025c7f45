"""Which variant is run: the first target that can be, and what is said when none can."""

from types import SimpleNamespace

import pytest
from llmc.artifact.manifest import make_cache_group
from llmc.artifact.targets import TrtProgramOptions
from llmc.base import machine
from llmc.base.errors import LlmcError
from llmc.runtime.api.loading import with_context
from llmc.runtime.executors import registry as executors
from llmc.runtime.executors.registry import runnable_variant
from msgspec.structs import replace

pytestmark = pytest.mark.fast


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, LlmcError | None]:
    """A second target, `gpu`, whose executor refuses with `problem` if there is one."""
    state: dict[str, LlmcError | None] = {"problem": None}
    monkeypatch.setitem(executors.TARGETS, "gpu", executors.TARGETS["cpu"])
    real = executors.executor_module

    def executor_module(target: str):
        runs = SimpleNamespace(problem=lambda variant: state["problem"])
        return runs if target == "gpu" else real(target)

    monkeypatch.setattr(executors, "executor_module", executor_module)
    monkeypatch.setattr(machine, "native_features", lambda: frozenset({"avx2"}))
    return state


def test_the_first_target_that_runs_here_is_chosen(make_variant, tiny_manifest, gpu) -> None:
    both = [
        make_variant(target="gpu", level="sm86", system="any", machine="any"),
        make_variant(level="portable"),
        make_variant(level="x86-64-v3", required_features=["avx2"]),
    ]
    manifest = tiny_manifest(4096, 5000, variants=both)
    assert runnable_variant(manifest).level == "sm86"
    assert runnable_variant(manifest, "cpu").level == "x86-64-v3"
    gpu["problem"] = LlmcError("LLMC-E0507", "no such GPU")
    assert runnable_variant(manifest).level == "x86-64-v3"
    with pytest.raises(LlmcError, match="no such GPU"):
        runnable_variant(manifest, "gpu")


def test_a_missing_package_is_named(make_variant, tiny_manifest, gpu) -> None:
    needs = make_variant(target="gpu", level="sm86", packages={"no-such-package": ">=1.2"})
    with pytest.raises(LlmcError, match=r"no-such-package >=1\.2") as error:
        runnable_variant(tiny_manifest(4096, 5000, variants=[needs]))
    assert (error.value.id, error.value.hint) == ("LLMC-E0703", "pip install 'llmc-compiler[gpu]'")


def test_a_target_that_the_artifact_lacks(make_variant, tiny_manifest) -> None:
    with pytest.raises(LlmcError, match=r"no onnx variant.*the artifact has cpu/") as error:
        runnable_variant(tiny_manifest(4096, 5000, variants=[make_variant()]), "onnx")
    assert error.value.id == "LLMC-E0507"


def test_slots_are_shorter_for_a_shorter_context(make_variant) -> None:
    paged = make_variant()
    assert with_context(paged, 100) is paged
    limits = replace(
        paged.limits, max_context=320, block_size=367, max_tokens=48, uniform_query=True
    )
    full = paged.cache_groups[0]
    geometry = {
        n: getattr(full, n) for n in ("layers", "kv_heads", "key_dim", "value_dim", "dtype")
    }
    group = make_cache_group(name="group0", window=0, block_size=367, **geometry)
    slots = make_variant(limits=limits, cache_groups=[group])
    shorter = with_context(slots, 100)
    assert (shorter.limits.max_context, shorter.limits.block_size) == (100, 147)
    (old,), (new,) = slots.cache_groups, shorter.cache_groups
    assert new.bytes_per_block * 367 == old.bytes_per_block * 147
    assert with_context(slots, 320) is slots
    assert with_context(slots, None) is slots
    engine = TrtProgramOptions(
        sms=[89], library="x", version="1", slot_length=slots.limits.block_size, caches=[]
    )
    fixed = with_context(replace(slots, options=engine), 100)
    assert fixed.limits.max_context == 100
    assert fixed.limits.block_size == slots.limits.block_size
    assert fixed.cache_groups == slots.cache_groups
