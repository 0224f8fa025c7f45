"""Time for a run: parts and the whole have deadlines, and what is left out has a reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Budget:
    """`seconds` from now on. `left_out`: by part, why it wasn't measured or not all of it."""

    seconds: float
    now: Callable[[], float] = time.monotonic
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun = self.now()

    @property
    def spent(self) -> float:
        return self.now() - self._begun

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    def part(self, name: str, most: float, run: Callable[[Deadline], None], least: float) -> bool:
        """Run a part of at most `most` seconds, if at least `least` are left. Whether it ran to its
        end; what it can't do is noted, and doesn't stop the others."""
        if self.left < least:
            self.left_out[name] = f"{self.left:.0f} s were left, it takes about {least:.0f}"
            return False
        deadline = Deadline(self, name, self.spent + min(most, self.left))
        try:
            run(deadline)
        except Exception as error:  # whatever it is, the other parts have their time
            self.left_out[name] = f"failed: {str(error) or type(error).__name__}"
            return False
        return name not in self.left_out


@dataclass(frozen=True)
class Deadline:
    """When a part must end. It looks at this between measurements, which are short."""

    budget: Budget
    name: str
    end: float

    @property
    def left(self) -> float:
        return self.end - self.budget.spent

    def allows(self, what: str, seconds: float = 0.0) -> bool:
        """Whether there is time for something; if not, that is noted."""
        if self.left > seconds:
            return True
        self.budget.left_out[f"{self.name}: {what}"] = "its time was over"
        return False
