"""The toy language model as a launch plan, its kernels in Python: what `toy_program.py` computes.

A step has four launches: token ids become other numbers by a table in the weights (`look_up`),
these go into the cache (`write_cache`), every row's tokens are read back from it and hashed
(`hash_rows`), and the best token is found (`find_best`, for small steps a kernel of its own). A
fifth runs in large steps only. Tokens are drawn by one (`draw`) that knows edits, forbidden ids,
and temperatures as a number in place of the token. They keep to the rules of padded steps, and
complain about hosts that don't.
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from fake_gpu import FakeGpu, FakeKernel, FakeLaunch
from llmc.artifact.device_choice import RECORD, RESULT, TOP
from llmc.artifact.launch_plan import (
    NO_KERNEL,
    ONE,
    Argument,
    Extent,
    FormLaunch,
    Kernel,
    Launch,
    LaunchPlan,
    Number,
    Pointer,
    Region,
    Size,
)
from llmc.artifact.manifest import MemoryPlan, Variant
from llmc.artifact.program import StepInputs
from llmc.artifact.targets import TritonProgramOptions
from llmc.runtime.executors.triton import TritonExecutor
from toy_program import BLOCK, GROUPS, SEED, VOCAB, WINDOW, Toy, toy_limits, toy_variant

SHIFT = 1000
"""What the table adds to a token's id."""
COLUMNS = 10
FORMS = [8, 48]
SCRATCH = 64
TOKENS, ROWS, SEQUENCES = 48, 6, 6
CUBINS = b"".join(bytes([number]) * 16 for number in range(1, 8))
WEIGHTS = (np.arange(VOCAB, dtype=np.int32) + SHIFT).tobytes()

T, S, R = (Size(Extent(symbol)) for symbol in ("T", "S", "R"))
STEP = {
    "token_ids": Region(0, 4 * TOKENS),
    "positions": Region(256, 4 * TOKENS),
    "query_start": Region(512, 4 * (SEQUENCES + 1)),
    "context_len": Region(768, 4 * SEQUENCES),
    "logits_rows": Region(1024, 4 * ROWS),
    "table.0": Region(1280, 4 * SEQUENCES * COLUMNS),
    "table.1": Region(1 << 16, 4 * SEQUENCES * COLUMNS),
}
CHOICE_BYTES = RECORD.size * ROWS + 60 * ROWS
KEPT = {
    "argmax": Region(0, 4 * ROWS),
    "count": Region(256, 4),
    "logits": Region(512, 4 * ROWS * VOCAB),
    "choices": Region(4096, CHOICE_BYTES),
    "results": Region(8192, RESULT.size * ROWS),
    "tokens": Region(16384, 4 * ROWS),
}


def step_array(name: str) -> Pointer:
    return Pointer("step", STEP[name].offset, STEP[name].nbytes)


def kept(name: str, access: Any = "w") -> Pointer:
    return Pointer("kept", KEPT[name].offset, KEPT[name].nbytes, access)


TABLES = (step_array("table.0"), step_array("table.1"))
POOLS = tuple(Pointer("cache", 0, g.bytes_per_block, "rw", n) for n, g in enumerate(GROUPS))
VALUES = Pointer("arena", 128, 4 * TOKENS)
ARGUMENTS: dict[str, list[Argument]] = {
    "look_up": [
        step_array("token_ids"),
        Pointer("weights", 0, len(WEIGHTS), "r", early=True),
        VALUES,
        Number(VOCAB, "i64"),
        T,
    ],
    "write_cache": [
        VALUES, step_array("positions"), step_array("query_start"), *TABLES, *POOLS, S, T
    ],
    "hash_rows": [
        step_array("query_start"), step_array("context_len"), step_array("logits_rows"), *TABLES,
        *POOLS, kept("logits"), Number(1 / (1 << 24), "f32"), S, R,
    ],
    "find_best": [kept("logits", "r"), kept("argmax"), R],
    "count_large": [kept("count", "rw"), Number(1, "i32")],
    "draw": [kept("logits", "rw"), kept("choices"), kept("results"), kept("tokens"), R],
}  # fmt: skip


def _type(argument: Argument) -> str:
    if isinstance(argument, Pointer):
        return "ptr"
    return "i32" if isinstance(argument, Size) else argument.dtype


def look_up(launch: FakeLaunch) -> None:
    tokens, table, values, vocab, count = launch.args
    ids = launch.array(tokens, np.int32, count)
    assert ((ids >= 0) & (ids < vocab)).all(), "a token id that is none"
    launch.array(values, np.int32, count)[:] = launch.array(table, np.int32, vocab)[ids]


def write_cache(launch: FakeLaunch) -> None:
    values, positions, starts, *tables_and_pools, sequences, tokens = launch.args
    starts = launch.array(starts, np.int32, sequences + 1)
    known = launch.array(values, np.int32, tokens)
    where = launch.array(positions, np.int32, tokens)
    assert (where[starts[-1] :] == 0).all(), "padding has no positions"
    for table, pool in zip(tables_and_pools[:2], tables_and_pools[2:], strict=True):
        blocks = launch.array(table, np.int32, sequences, COLUMNS)
        for s in range(sequences):
            if starts[s] == starts[s + 1]:
                assert (blocks[s] == -1).all(), "padding has no blocks"
            for t in range(starts[s], starts[s + 1]):
                _cell(launch, pool, blocks[s], where[t])[0] = known[t]


def _cell(launch: FakeLaunch, pool: int, blocks: np.ndarray, position: int) -> np.ndarray:
    block = int(blocks[position // BLOCK])
    assert block >= 0, "a block that was freed or never given"
    at = pool + block * GROUPS[0].bytes_per_block + int(position) % BLOCK * 4
    return launch.array(at, np.int32, 1)


def hash_rows(launch: FakeLaunch) -> None:
    starts, lengths, rows, *tables_and_pools, logits, scale, sequences, count = launch.args
    assert scale == 1 / (1 << 24)
    starts = launch.array(starts, np.int32, sequences + 1)
    lengths = launch.array(lengths, np.int32, sequences)
    result = launch.array(logits, np.float32, count, VOCAB)
    for r, row in enumerate(launch.array(rows, np.int32, count)):
        s = int(np.searchsorted(starts, row, "right")) - 1
        position = int(lengths[s]) - int(starts[s + 1]) + int(row)
        h = SEED
        for number, (table, pool) in enumerate(
            zip(tables_and_pools[:2], tables_and_pools[2:], strict=True)
        ):
            blocks = launch.array(table, np.int32, sequences, COLUMNS)[s]
            first = max(0, position - WINDOW + 1) if number else 0
            for p in range(first, position + 1):
                token = int(_cell(launch, pool, blocks, p)[0]) - SHIFT
                assert 0 <= token < VOCAB, "read a position that was never written"
                h = ((h ^ (token + 1)) * 1099511628211) & ((1 << 64) - 1)
        result[r] = Toy.logits([], h)


def find_best(launch: FakeLaunch) -> None:
    logits, argmax, count = launch.args
    assert launch.grid == (count, 1, 1)
    best = launch.array(logits, np.float32, count, VOCAB).argmax(axis=1)
    launch.array(argmax, np.int32, count)[:] = best
    if launch.scratch[0]:
        launch.array(launch.scratch[0], np.uint8, count * SCRATCH).fill(7)


def count_large(launch: FakeLaunch) -> None:
    counter, one = launch.args
    launch.array(counter, np.int32, 1)[0] += one


def draw(launch: FakeLaunch) -> None:
    logits, choices, results, tokens, count = launch.args
    assert launch.grid == (count, 1, 1)
    words = launch.array(choices, np.int32, CHOICE_BYTES // 4)
    for place in range(count):
        record = RECORD.unpack(words[16 * place : 16 * place + 16].tobytes())
        row, target, rate, *_, uniform, edits, edit_count, _, banned, ban_count, top = record
        x = launch.array(logits + 4 * VOCAB * row, np.float32, VOCAB)
        raw = x.copy()
        ids, bias = (words[edits + n * edit_count :][:edit_count] for n in (0, 1))
        x[ids] += bias.view(np.float32)
        x[words[banned : banned + ban_count]] = -np.inf
        token = int(x.argmax()) if rate == 0 else int(uniform * VOCAB)
        token = token if target < 0 else target
        best = np.argsort(-raw, kind="stable")[: max(top, 0)].tolist()
        none = TOP - len(best)
        found = (token, raw[token], *best, *[-1] * none, *raw[best], *[0.0] * none)
        result = launch.array(results + RESULT.size * place, np.uint8, RESULT.size)
        result[:] = np.frombuffer(RESULT.pack(*found), np.uint8)
        launch.array(tokens + 4 * row, np.int32, 1)[0] = token


RUN: dict[str, Callable[[FakeLaunch], None]] = {
    "look_up": look_up,
    "write_cache": write_cache,
    "hash_rows": hash_rows,
    "find_best": find_best,
    "find_few": find_best,
    "count_large": count_large,
    "draw": draw,
}
"""In the order of the plan's kernels."""
NUMBERS = {name: number for number, name in enumerate(RUN)}


def _arguments(name: str) -> list[Argument]:
    return ARGUMENTS["find_best" if name == "find_few" else name]


def toy_kernels() -> dict[str, FakeKernel]:
    """What each of the plan's functions does."""
    return {
        name: FakeKernel(tuple(_type(a) for a in _arguments(name)), run)
        for name, run in RUN.items()
    }


def _kernel(name: str) -> Kernel:
    codes = {"ptr": "Q", "i32": "i", "i64": "q", "f32": "f"}
    layout = "@" + "".join(codes[_type(a)] for a in _arguments(name)) + "QQ"
    return Kernel(
        label=name,
        name=name,
        offset=16 * NUMBERS[name],
        nbytes=16,
        threads=64,
        shared=64 << 10 if name == "hash_rows" else 0,
        parameter_bytes=struct.calcsize(layout),
        scratch=SCRATCH if name == "find_few" else 0,
        overlaps=name != "find_best",
        cooperative=name == "find_best",
    )


def _launch(name: str, extent: Extent, small: str | None = "") -> Launch:
    """`small`: the kernel in small steps, the same one if it isn't given, none if it is None."""
    first = NO_KERNEL if small is None else NUMBERS[small or name]
    grid = (extent, ONE, ONE)
    forms = [FormLaunch(first, grid), FormLaunch(NUMBERS[name], grid)]
    return Launch(label=name, forms=forms, arguments=ARGUMENTS[name])


def toy_plan(**changes: Any) -> LaunchPlan:
    """A plan of two forms."""
    fields: dict[str, Any] = {
        "sm": 90,
        "kernels": [_kernel(name) for name in RUN],
        "forms": FORMS,
        "launches": [
            _launch("look_up", Extent("T", divisor=16)),
            _launch("write_cache", Extent("T")),
            _launch("hash_rows", Extent("R")),
            _launch("find_best", Extent("R"), "find_few"),
            _launch("count_large", ONE, None),
        ],
        "sampling": [_launch("draw", Extent("R"))],
        "step": STEP,
        "step_bytes": (1 << 16) + 256,
        "kept": KEPT,
        "kept_bytes": 16384 + 256,
        "columns": COLUMNS,
    }
    return LaunchPlan(**{**fields, **changes})


def toy_triton_variant(plan: LaunchPlan | None = None, **changes: Any) -> Variant:
    """A variant of target `triton`."""
    fields: dict[str, Any] = {
        "target": "triton",
        "level": "sm90",
        "options": TritonProgramOptions(plan=plan or toy_plan()),
        "limits": toy_limits(),
        "memory_plan": MemoryPlan(arena_bytes=4096),
    }
    return toy_variant(**{**fields, **changes})


def toy_executor(
    gpu: FakeGpu | None = None,
    *,
    seed: int | None = None,
    cache_blocks: tuple[int, ...] = (40, 24),
    plan: LaunchPlan | None = None,
    **changes: Any,
) -> TritonExecutor:
    """The toy on a `FakeGpu`. `changes`: of its variant."""
    return TritonExecutor(
        toy_triton_variant(plan, **changes),
        CUBINS,
        memoryview(WEIGHTS),
        gpu=gpu or FakeGpu(toy_kernels(), seed=seed),
        cache_blocks=cache_blocks,
    )


BLOCKS_EACH = 2
"""Of each sequence of `inputs_for`."""


def inputs_for(
    sequences: list[list[int]], new: list[int], rows: list[int] | None = None
) -> StepInputs:
    """A step that computes the last `new[s]` tokens of each sequence, which has blocks of its own.
    Logits of each sequence's last token unless `rows` says otherwise."""
    starts = [0]
    for count in new:
        starts.append(starts[-1] + count)
    lengths = [len(tokens) for tokens in sequences]
    pairs = list(zip(sequences, new, strict=True))
    table = [
        list(range(s * BLOCKS_EACH, s * BLOCKS_EACH + -(-length // BLOCK)))
        for s, length in enumerate(lengths)
    ]
    return StepInputs(
        token_ids=[t for tokens, count in pairs for t in tokens[len(tokens) - count :]],
        positions=[p for tokens, n in pairs for p in range(len(tokens) - n, len(tokens))],
        query_start=starts,
        context_len=lengths,
        logits_rows=[end - 1 for end in starts[1:]] if rows is None else rows,
        block_tables=(table, table),
    )


def best(tokens: list[int]) -> int:
    """What the toy says next."""
    return int(Toy.logits(tokens).argmax())


def prompts_of(*lengths: int) -> list[list[int]]:
    """Prompts of these lengths, all different."""
    return [[(7 * n + 13 * s) % 97 for n in range(length)] for s, length in enumerate(lengths)]
