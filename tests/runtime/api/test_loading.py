"""Choosing a variant, planning its memory, and processes that fork after loading."""

import os
import subprocess
import sys

import llmc
import pytest
from llmc.artifact.manifest import MemoryPlan, make_state_slots
from llmc.base import machine
from llmc.base.errors import LlmcError
from llmc.runtime.api.cache_plan import Capacity, plan_cache
from llmc.runtime.api.loading import open_program
from llmc.runtime.api.model import Model
from llmc.runtime.executors import cpu, triton
from llmc.runtime.executors.registry import runnable_variant
from stateful_toy import StatefulToy
from toy_plan import toy_plan, toy_triton_variant
from toy_program import GROUPS


def test_the_most_demanding_variant_that_runs_here_is_chosen(
    make_variant, tiny_manifest, monkeypatch
):
    monkeypatch.setattr(machine, "native_features", lambda: frozenset({"avx2", "fma"}))
    levels = {
        "portable": [],
        "x86-64-v3": ["avx2", "fma"],
        "x86-64-v4": ["avx2", "avx512f", "fma"],
    }
    variants = [make_variant(level=n, required_features=f) for n, f in levels.items()]
    assert runnable_variant(tiny_manifest(4096, 5000, variants=variants)).level == "x86-64-v3"
    with pytest.raises(LlmcError, match=r"E0506.*avx512f"):
        runnable_variant(tiny_manifest(4096, 5000, variants=variants[2:]))


@pytest.mark.parametrize("other", [{"system": "plan9"}, {"machine": "vax"}, {"target": "tpu"}])
def test_variants_for_other_machines_are_not_ours(make_variant, tiny_manifest, other):
    manifest = tiny_manifest(4096, 5000, variants=[make_variant(**other)])
    with pytest.raises(LlmcError, match="E0507"):
        runnable_variant(manifest)


def test_the_cache_follows_the_memory_plan(make_variant):
    variant = make_variant()
    per_sequence = (10, 4)  # 320 tokens; 40 - 1 + 48 tokens of window and step
    fixed = 4096 + 6 * 97 * 4 + 1000
    (block,) = {group.bytes_per_block for group in variant.cache_groups}

    def plan(memory, max_context=None):
        found = plan_cache(variant, weights_bytes=1000, max_context=max_context, memory=memory)
        assert found.slots == 0
        return found.blocks

    assert plan(1 << 30) == (60, 24)  # never more than max_sequences can use
    assert plan(fixed + 14 * block) == per_sequence
    assert plan(fixed + 2 * 14 * block) == (20, 8)
    assert plan(fixed + 21 * block) == (15, 6)  # what is left over serves shorter ones
    full, sliding = plan(fixed + 11 * block)
    assert full + sliding == 11
    assert full < 10
    assert plan(fixed + 1000 * block, max_context=64) == (12, 12)
    with pytest.raises(LlmcError, match="E0601"):
        plan(fixed + block)


def test_of_a_gpu_s_memory_most_is_for_the_cache() -> None:
    """Whatever is kept between steps counts as the plan has it, not as logits."""
    variant = toy_triton_variant(
        toy_plan(kept_bytes=1 << 20), memory_plan=MemoryPlan(arena_bytes=0)
    )
    (block,) = {group.bytes_per_block for group in variant.cache_groups}
    available = 40 * block + (1 << 20) + toy_plan().step_bytes + 1000

    def plan(share: float) -> int:
        found = plan_cache(
            variant,
            weights_bytes=1000,
            max_context=None,
            memory=None,
            available=available,
            share=share,
        )
        return sum(found.blocks)

    for share in (0.5, 0.9, 1.0):
        assert 40 * share - 2 < plan(share) <= 40 * share  # whole blocks of each of two groups
    assert triton.CACHE_SHARE > cpu.CACHE_SHARE


def test_the_capacity_is_what_fits_at_once(toy):
    whole = Model(toy(cache_blocks=(60, 24))).capacity
    assert (whole.sequences, whole.context) == (6, 320)
    assert str(whole).startswith("6 sequences × 320 tokens")
    assert Model(toy(cache_blocks=(20, 24))).capacity.sequences == 2
    assert Model(toy(cache_blocks=(20, 24)), max_context=64).capacity.sequences == 6
    short = Model(toy(cache_blocks=(5, 24))).capacity
    assert (short.sequences, short.context, short.tokens) == (1, 160, 160)


STATE = make_state_slots([(0, "state", (900,))])


@pytest.mark.parametrize("with_groups", [False, True])
def test_slots_and_blocks_share_the_memory(make_variant, with_groups):
    groups = {} if with_groups else {"cache_groups": []}
    variant = make_variant(state=STATE, **groups)
    slot, fixed = STATE.bytes_per_slot, 4096 + 6 * 97 * 4 + 1000
    per_block = [group.bytes_per_block for group in variant.cache_groups]

    def plan(memory):
        return plan_cache(variant, weights_bytes=1000, max_context=None, memory=memory)

    assert plan(1 << 30) == ((60, 24) if with_groups else (), 24)  # four times max_sequences
    chunk = sum(blocks * nbytes for blocks, nbytes in zip((2, 2), per_block, strict=False))
    with pytest.raises(LlmcError, match="E0601"):
        plan(fixed + slot + chunk - 1)
    for budget in range(slot + chunk, 40 * slot, slot // 7):
        blocks, slots = plan(fixed + budget)
        taken = sum(count * nbytes for count, nbytes in zip(blocks, per_block, strict=True))
        assert taken + slots * slot <= budget
        assert slots >= 1
        if with_groups:
            assert min(blocks) >= 2
            assert slots >= budget // (2 * slot) or taken == chunk or slots == 24
        else:
            assert slots == min(24, budget // slot)


def test_the_capacity_counts_slots():
    for slots, sequences in ((20, 6), (4, 4)):
        for groups in ((), GROUPS):
            capacity = Model(StatefulToy((60, 24), slots=slots, groups=groups)).capacity
            assert (capacity.sequences, capacity.context) == (sequences, 320)
            assert capacity.snapshots == slots - sequences
    some = Capacity(6, 320, 1920, 5 << 20, 14)
    assert str(some) == "6 sequences × 320 tokens (5 MiB of cache, 14 snapshots of state)"


def test_a_target_that_keeps_no_state_is_not_given_a_program_with_some(
    make_variant, toy, monkeypatch
):
    opened = toy()
    monkeypatch.setattr(cpu, "open_program", lambda *_, **__: opened)
    with pytest.raises(LlmcError, match=r"E0509.*keep no state"):
        open_program(make_variant(state=STATE), b"", None)
    assert opened.closed


def test_a_smaller_context_and_bad_options(toy_artifact):
    with (
        llmc.load(toy_artifact, threads=1, max_context=40) as model,
        pytest.raises(LlmcError, match="context 40"),
    ):
        model.generate([1] * 41)
    with pytest.raises(LlmcError, match="E0205"):
        llmc.load(toy_artifact, threads=0)
    with pytest.raises(LlmcError, match="E0205"):
        llmc.load(toy_artifact, max_context=0)
    with pytest.raises(LlmcError, match="E0601"):
        llmc.load(toy_artifact, memory=9000)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_ends_without_the_program(toy_artifact):
    """Neither its calls nor its end touch threads that it doesn't have; the parent goes on."""
    script = (
        "import os, sys, llmc\n"
        f"model = llmc.load({str(toy_artifact)!r}, threads=2)\n"
        "used = 'used' in sys.argv\n"
        "if used: list(model.generate([1], max_tokens=3))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: model.generate([1])\n"
        "    except Exception as error: ok = 'E0104' in str(error)\n"
        "    model.close()\n"
        "    sys.exit(0 if ok else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "assert len(list(model.generate([1], max_tokens=3))) > 0\n"
    )
    for argument in ("used", "unused"):
        subprocess.run([sys.executable, "-c", script, argument], check=True, timeout=60)
