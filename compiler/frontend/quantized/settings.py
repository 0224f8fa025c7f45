"""What a checkpoint says of its quantization, checked as it is asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ....base.errors import LlmcError

_LARGEST_GROUP = 1 << 24


@dataclass(frozen=True)
class Settings:
    """The object `raw` of `file`, which describes quantization by `method`."""

    method: str
    raw: dict[str, Any]
    file: str = "config.json"

    def get(self, name: str, *others: str) -> Any:
        """The first of these fields that is there and isn't null; else None."""
        values = (self.raw.get(n) for n in (name, *others))
        return next((value for value in values if value is not None), None)

    def one_of(self, name: str, allowed: Collection[int], *others: str) -> int:
        """The integer `name`, which must be one of the `allowed`; E0418 if it is something else."""
        value = self.get(name, *others)
        if type(value) is not int or value not in allowed:
            raise self.wrong(name, value)
        return value

    def group_size(self) -> int:
        """Columns that share a scale, -1 for all; E0418 if that is no number."""
        value = self.get("group_size", "q_group_size")
        value = -1 if value is None else value
        if type(value) is not int or not (value == -1 or 0 < value < _LARGEST_GROUP):
            raise self.wrong("group_size", value)
        return value

    def wrong(self, name: str, value: Any) -> LlmcError:
        """The error for a field that makes no sense."""
        shown = " ".join(repr(value).split())[:60]
        return LlmcError("LLMC-E0418", f"{self.file}: {self.method} with {name} {shown}")

    def unknown(self, what: str) -> LlmcError:
        """The error for a variety of the method that isn't read."""
        return LlmcError("LLMC-E0419", f"the checkpoint is quantized with {self.method}, {what}")
