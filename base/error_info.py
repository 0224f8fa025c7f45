"""What a row of the tables of errors holds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """One row of the table: what an id means.

    `explanation` says what happened and why it is refused, `advice` what to do about it.
    `exit_code` is given only where it isn't the first two digits of the id.
    """

    title: str
    explanation: str
    advice: str
    exit_code: int | None = None
