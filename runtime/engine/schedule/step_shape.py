"""How many query tokens each running sequence brings to a step: the policies of a step's shape.

In: the running sequences, in order of service. Out: how many of its uncomputed tokens the step
computes of each.
"""

from collections.abc import Sequence as SequenceOf
from typing import Protocol

from .sequence import Sequence
from .step_times import StepTimes

_LEAST_PROMPT_TOKENS = 4
"""Prompts always advance by so many, however slow a step is."""
_FIRST_PROMPT_TOKENS = 16
"""Beside decoding sequences, before anything was measured."""
_PROBE_AFTER = 12
"""After so many steps with prompts one step is of decoding alone, since steps that are all alike
don't tell what is due to whom."""


class StepShape(Protocol):
    """A policy. `observe` is told the seconds of each step whose shape it gave, and how many draft
    tokens were in it besides."""

    def counts(self, sequences: SequenceOf[Sequence], max_tokens: int) -> list[int]: ...
    def observe(
        self, decoding: int, prompt_tokens: int, seconds: float, drafted: int = 0
    ) -> None: ...


class MixedSteps:
    """Decoding sequences first, and prompts in what is left of the token budget.

    A step with prompt tokens takes longer, and everybody who decodes waits for it. So while
    somebody decodes, prompts get as many tokens as make the step about `slack` times as long as
    one of decoding alone, by the times that were measured so far. If more sequences wait for their
    first token than decode, it is more by the square of their proportion: when many come at once,
    they begin at once, and don't wait for the one that was first. None: as many as fit.
    """

    def __init__(self, slack: float | None) -> None:
        self._slack = slack
        self._mixed = 0
        self.times = StepTimes()

    def counts(self, sequences: SequenceOf[Sequence], max_tokens: int) -> list[int]:
        """Query tokens per sequence."""
        decoding = sum(s.decodes for s in sequences)
        left = max(0, max_tokens - decoding)
        if decoding and self._slack is not None:
            left = min(left, self._prompt_tokens(self._slack, decoding, len(sequences) - decoding))
        counts, places = [], max_tokens  # of decoding sequences
        for sequence in sequences:
            if sequence.decodes:
                counts.append(min(1, places))
                places -= counts[-1]
            else:
                counts.append(min(sequence.chunk, left))
                left -= counts[-1]
        return counts

    def _prompt_tokens(self, slack: float, decoding: int, prompts: int) -> int:
        times = self.times
        if self._mixed >= _PROBE_AFTER:
            return 0
        if not times.per_prompt_token:
            return _FIRST_PROMPT_TOKENS
        allowed = times.alone(decoding) * (1 + (slack - 1) * max(1.0, prompts / decoding) ** 2)
        spare = allowed - times.beside_prompts(decoding)
        return max(_LEAST_PROMPT_TOKENS, int(spare / times.per_prompt_token))

    def observe(self, decoding: int, prompt_tokens: int, seconds: float, drafted: int = 0) -> None:
        """Learns what a decoding step and a prompt token take. A draft token costs the same as one
        of a prompt: both are further query tokens beside those that decode."""
        if self._slack is None:
            return
        seconds, further = max(seconds, 1e-6), prompt_tokens + drafted
        if not further:
            self.times.add_alone(decoding, seconds)
        if further or self._mixed:  # a row of steps of decoding alone tells nothing new
            self.times.add(decoding, further, seconds)
        self._mixed = self._mixed + 1 if decoding and prompt_tokens else 0


class UniformSteps:
    """For programs whose sequences all bring equally many query tokens to a step.

    Steps of decoding and steps of prompts take turns, so that neither waits for long. Of prompts
    as many sequences as fit side by side bring the same number; a shorter rest is padded by the
    program, which counts against the budget.
    """

    def __init__(self) -> None:
        self._decoded_last = False

    def counts(self, sequences: SequenceOf[Sequence], max_tokens: int) -> list[int]:
        """Query tokens per sequence; 0 for those that wait for the next step."""
        prompts = [s.uncomputed for s in sequences if not s.decodes]
        if len(prompts) < len(sequences) and not (prompts and self._decoded_last):
            self._decoded_last = True
            return [int(s.decodes and i < max_tokens) for i, s in enumerate(sequences)]
        self._decoded_last = False
        query = min(max(prompts, default=0), max(1, max_tokens // max(1, len(prompts))))
        places = max_tokens // max(1, query)
        counts = []
        for sequence in sequences:
            taken = 0 if sequence.decodes or not places else min(sequence.uncomputed, query)
            places -= taken > 0
            counts.append(taken)
        return counts

    def observe(self, decoding: int, prompt_tokens: int, seconds: float, drafted: int = 0) -> None:
        """Nothing to learn: the budget is the program's."""
