"""Ids of what can go wrong with targets that bring a runtime of their own."""

from .error_info import ErrorInfo

TARGET_ERRORS: dict[str, ErrorInfo] = {
    "LLMC-E0231": ErrorInfo(
        "the target can't compute in this scheme",
        "The runtime that the target compiles for has no operators for these weights, activations "
        "or this cache. llmc doesn't replace them by others without being asked.",
        "docs/compatibility.md says which schemes each target has",
    ),
    "LLMC-E0513": ErrorInfo(
        "a package has another version than the program was made for",
        "The artifact names the versions of the runtime that it runs with.",
        "install that version, or compile the artifact again",
    ),
}
