"""What the executors of runtimes that don't page have in common.

In: a variant, and how many slots there are. A step becomes padded runs over ranges of slots
(`slots.py`); a subclass runs one of them on its runtime, which holds the caches, and puts the rows
of logits where they belong. Out: the step's outputs, in numpy's memory.
"""

from abc import ABC, abstractmethod
from math import prod
from typing import TYPE_CHECKING, Any

from ...artifact.manifest import SIGNATURE_VERSION, CacheGroup, Limits, Variant
from ...artifact.program import InputCheck, StepInputs, StepOutputs
from ...base.errors import LlmcError
from .native_memory import allocate
from .slots import SlotPlanner, SlotRun

if TYPE_CHECKING:
    import numpy as np

_LONGEST_REASON = 300


class SlotExecutor(ABC):
    """A program whose sequences each own a slot of its caches.

    `slots`: how many, the same number in every cache group. `prompts_alone`: the runtime takes
    several rows only of one token each. Errors: E0509, another version of the interface; E0601, no
    memory for the logits.
    """

    def __init__(self, variant: Variant, slots: int, *, prompts_alone: bool = False) -> None:
        if variant.signature_version != SIGNATURE_VERSION:
            raise LlmcError("LLMC-E0509", "the program has another interface version")
        self.limits: Limits = variant.limits
        self.cache_groups: tuple[CacheGroup, ...] = tuple(variant.cache_groups)
        self.cache_blocks = (slots,) * len(self.cache_groups)
        self.vocab_size = variant.vocab_size
        self._check = InputCheck(self)
        self._planner = SlotPlanner(self.limits, slots, prompts_alone=prompts_alone)
        self._logits = zeros((self.limits.max_logits_rows, self.vocab_size), "float32", huge=True)
        self._is_open = True

    def step(self, inputs: StepInputs) -> StepOutputs:
        """Runs one step, as one or several runs; other Python threads go on meanwhile.

        Errors: E0100, closed, or inputs out of range; E0102, the runtime fails.
        """
        if not self._is_open:
            raise LlmcError("LLMC-E0100", "the program is closed")
        self._check.check(inputs)
        for run in self._planner.runs(inputs):
            try:
                self._run(run)
            except LlmcError:
                raise
            except Exception as error:  # runtimes have no common class of errors
                cause = f"the compiled program failed: {first_line(error)}"
                raise LlmcError("LLMC-E0102", cause) from error
        return StepOutputs.of(self._logits[: len(inputs.logits_rows)])

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copies a slot, which the first group names for all of them."""
        if group == 0:
            self._copy_slot(source, target)
            self._planner.copied(source, target)

    def close(self) -> None:
        """Lets go of the runtime and of all memory; idempotent."""
        if self._is_open:
            self._is_open = False
            self._release()

    def _place(self, run: SlotRun, rows: Any) -> None:
        """Puts a run's rows of logits f32 [at least len(run.outputs), vocab] into the step's."""
        if run.outputs:
            self._logits[run.outputs] = rows[: len(run.outputs)]

    @abstractmethod
    def _run(self, run: SlotRun) -> None:
        """One call of the runtime, whose logits are in `_logits` when it returns."""

    @abstractmethod
    def _copy_slot(self, source: int, target: int) -> None:
        """Copies what all caches hold for a slot."""

    @abstractmethod
    def _release(self) -> None:
        """Lets go of what the runtime holds."""


def zeros(shape: tuple[int, ...], dtype: Any, *, huge: bool = False) -> "np.ndarray":
    """An array that takes memory only where it is touched. `huge`: in huge pages. Errors: E0601."""
    import numpy as np

    nbytes = prod(shape) * np.dtype(dtype).itemsize
    return array_of(allocate(nbytes, huge_pages=huge), shape, dtype)


def array_of(memory: memoryview, shape: tuple[int, ...], dtype: Any) -> "np.ndarray":
    """A view of memory. Errors: ValueError, if it has another size than the shape."""
    import numpy as np

    return np.frombuffer(memory, dtype).reshape(shape)


def first_line(error: BaseException) -> str:
    """What a runtime says of an error: its first line, or else the name of its class."""
    lines = (" ".join(line.split()) for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:_LONGEST_REASON]
