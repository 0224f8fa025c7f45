"""Tokens drawn on the GPU, by the sampling launches of a plan.

In: choices, packed into one block (`artifact/device_choice.py`) and copied to `choices` in the kept
memory. The launches read logits there, with as many records as R says, and write `results`, and the
token of each row that has a choice to `tokens` (i32 by rows; 0 where none could be chosen), which
the next step may take from there. Out: the choices, filled in.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...artifact.choice import Choice
from ...artifact.device_choice import RECORD, RESULT, list_bytes, pack, packed_bytes, read_results
from ...artifact.launch_plan import LaunchPlan
from ...base.errors import LlmcError
from .gpu_device import Event, GpuDevice
from .triton_launches import Launches, StepSizes

_I32 = 4


class _Piece(NamedTuple):
    """Pinned memory of a draw: its packed choices and its results. `done`: all of it."""

    choices: memoryview
    results: memoryview
    done: Event


class Sampling:
    """The draws of a program. `kept`: the address of the kept memory; `rows`: of logits, at most;
    `ahead`: how many steps with draws may be under way, each with a place of its own."""

    def __init__(
        self,
        gpu: GpuDevice,
        plan: LaunchPlan,
        launches: Launches,
        *,
        kept: int,
        rows: int,
        ahead: int,
    ) -> None:
        self._gpu, self._plan, self._launches = gpu, plan, launches
        self._kept, self._rows = kept, rows
        self._ahead = ahead
        self._pieces: list[_Piece] = []
        self.available = bool(plan.sampling)
        self._capacity = plan.kept["choices"].nbytes if self.available else 0
        self._with_steps = self.available and "tokens" in plan.kept
        self._lists = (self._capacity - RECORD.size * rows) // rows
        """Bytes of lists that every row may have at once."""

    def takes(self, choice: Choice) -> bool:
        """Whether all rows of a step may have choices such as this one, drawn when it is run."""
        return self._with_steps and list_bytes(choice) <= self._lists

    def takes_all(self, choices: Sequence[Choice]) -> bool:
        """Whether a step may have all of these."""
        return self._with_steps and max(map(list_bytes, choices)) <= self._lists

    @property
    def tokens(self) -> int:
        """The address of the tokens of the last step that came with choices."""
        return self._kept + self._plan.kept["tokens"].offset

    def _begin(self, sizes: StepSizes, choices: Sequence[Choice], place: int) -> "Draw":
        """Begins to draw. All choices must fit at once."""
        if not self._pieces:
            self._pieces = [self._new_piece() for _ in range(self._ahead + 1)]
        piece = self._pieces[place]
        gpu, count = self._gpu, len(choices)
        gpu.wait(piece.done)
        used = packed_bytes(choices, count)
        if used > self._capacity:
            raise LlmcError("LLMC-E0100", f"{count} choices of {used} bytes are too many at once")
        pack(choices, piece.choices, count)
        gpu.upload(self._kept + self._plan.kept["choices"].offset, piece.choices[:used])
        self._launches.run(gpu, sizes._replace(rows=count))
        results = piece.results[: RESULT.size * count]
        gpu.download(results, self._kept + self._plan.kept["results"].offset)
        gpu.record(piece.done)
        return Draw(choices, results, piece.done)

    def begin_with_step(self, sizes: StepSizes, choices: Sequence[Choice], place: int) -> "Draw":
        """Begins to draw from a step that was just begun; the next one may take the tokens. What
        had the same place before must have been finished, or nobody wants it."""
        argmax = self._kept + self._plan.kept["argmax"].offset
        self._gpu.copy(self.tokens, argmax, sizes.rows * _I32)  # of rows without a choice
        return self._begin(sizes, choices, place)

    def draw(self, sizes: StepSizes, choices: Sequence[Choice]) -> None:
        """Fills in choices, as many at once as fit, and waits for them."""
        for some in self._fitting(choices):
            self._begin(sizes, some, self._ahead).finish(self._gpu)

    def _fitting(self, choices: Sequence[Choice]) -> Iterator[Sequence[Choice]]:
        begin, used = 0, 0
        for place, choice in enumerate(choices):
            nbytes = packed_bytes([choice], 1)
            full = used + nbytes > self._capacity or place - begin == self._rows
            if full and place > begin:
                yield choices[begin:place]
                begin, used = place, 0
            used += nbytes
        yield choices[begin:]

    def _new_piece(self) -> _Piece:
        gpu = self._gpu
        choices, results = (gpu.allocate_pinned(n) for n in (self._capacity, self._result_bytes))
        return _Piece(choices, results, gpu.create_event())

    @property
    def _result_bytes(self) -> int:
        return RESULT.size * self._rows


class Draw(NamedTuple):
    """A draw under way."""

    choices: Sequence[Choice]
    results: memoryview
    done: Event

    def finish(self, gpu: GpuDevice) -> None:
        """Waits, and fills in the choices."""
        gpu.wait(self.done)
        read_results(self.choices, self.results)
