"""The error that a user may see: one class; its ids are explained in `error_table.py`.

Exit codes: 1 internal error; 2 usage; 3 quality gate not met; 4 model or op not supported;
5 artifact or machine not acceptable, or verification failed; 6 not enough memory; 7 environment;
130 and 143 for signals (the two rows that state their own exit code).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .error_info import ErrorInfo


class LlmcError(Exception):
    """A failure with a stable id, one line of cause and one line of what to do.

    >>> LlmcError("LLMC-E0204", "the prompt has 9000 tokens, the context 8192").exit_code
    2
    """

    def __init__(self, id: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.id = id
        self.message = message
        info = _info(id)
        self.hint = hint or (info.advice if info is not None else "")

    @property
    def exit_code(self) -> int:
        """The exit code a command ends with when this error reaches its top."""
        info = _info(self.id)
        if info is not None and info.exit_code is not None:
            return info.exit_code
        return int(self.id[6:8])

    def __str__(self) -> str:
        return f"{self.id}: {self.message}"

    def __reduce__(self) -> tuple[type["LlmcError"], tuple[str, str, str]]:
        # The default would call LlmcError(message) when a worker process passes it back.
        return LlmcError, (self.id, self.message, self.hint)


def _info(id: str) -> "ErrorInfo | None":
    from .error_table import ERRORS  # a long table, and most runs raise nothing

    return ERRORS.get(id)
