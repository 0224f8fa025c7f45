"""How a command ends when it fails: from any exception to what is printed and the exit code.

With `--json` one object on stdout, `{"error": {"id", "message", "hint"}}`; otherwise one line of
cause and one of advice on stderr. A traceback only with LLMC_DEBUG. Signals end a command through
an exception, so that `finally` and `with` clean up first.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .debug import debugging
from .errors import LlmcError

BROKEN_PIPE_EXIT = 128 + signal.SIGPIPE
"""Whoever read our output had enough of it (`llmc … | head`): no error, but not done either."""

_AGAIN = 0.02
"""Seconds after which a dropped signal is raised again; the finalizer is over by then."""

_EXTRAS = {
    "compile": {"torch", "transformers", "safetensors", "gguf", "networkx", "ziglang"},
    "serve": {
        "fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools", "prometheus_client",
        "llguidance",
    },
}  # fmt: skip
_EXTRA_OF = {package: extra for extra, packages in _EXTRAS.items() for package in packages}


def run_guarded(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run `command(arguments)` and return the exit code, whatever happens in it."""
    as_json = "--json" in arguments[: [*arguments, "--"].index("--")]
    global _current
    stops = _current = _Stops()
    try:
        code = command(arguments)
        if sys.stdout is not None:  # as with `>&-`
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Nothing may be flushed to the closed pipe when the interpreter exits.
        assert sys.stdout is not None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_EXIT
    except BaseException as raised:
        error = as_llmc_error(stops.asked or raised)
        if debugging():
            traceback.print_exc()
        _report(error, as_json)
        return error.exit_code


def raise_if_stopped() -> None:
    """Raise again what a signal has asked for, if a library has swallowed it.

    Long work calls it between its stages. In other threads than the main one nothing happens.
    """
    asked = _current.asked if _current is not None else None
    if asked is not None and threading.current_thread() is threading.main_thread():
        raise asked


class _Stops:
    """Turns SIGINT and SIGTERM into an exception, once, and remembers it as `asked`.

    Libraries may make another exception of it on its way up, and cleaning up may be under way when
    an impatient user asks again. Only the main thread can do this; elsewhere nothing happens.
    """

    def __init__(self) -> None:
        self.asked: BaseException | None = None
        self._report_unraisable = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as `nohup` may have it
                signal.signal(signal.SIGINT, self._stop)
            signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, signum: int, frame: object) -> None:
        if self.asked is None:
            interrupt = signum == signal.SIGINT
            self.asked = KeyboardInterrupt() if interrupt else SystemExit(128 + signum)
            raise self.asked

    def _unraisable(self, unraisable: Any) -> None:
        """A signal that arrives in a finalizer is dropped with its exception: raise it again."""
        if self.asked is None or unraisable.exc_value is not self.asked:
            self._report_unraisable(unraisable)
            return
        signal.signal(signal.SIGALRM, self._again)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)

    def _again(self, signum: int, frame: object) -> None:
        assert self.asked is not None
        raise self.asked


_current: _Stops | None = None
"""Of the command that runs, if one does."""


def _report(error: LlmcError, as_json: bool) -> None:
    """Print the error; whoever should read it may be gone."""
    with suppress(OSError):
        if as_json:
            print(json.dumps(as_content(error)), flush=True)
        else:
            print("\n".join(as_lines(error)), file=sys.stderr, flush=True)


def as_content(error: LlmcError) -> dict[str, Any]:
    """Return what `--json` prints about an error."""
    message, hint = one_line(error.message), one_line(error.hint)
    return {"error": {"id": error.id, "message": message, "hint": hint}}


def as_lines(error: LlmcError) -> list[str]:
    """Return what a person reads about an error."""
    return [f"llmc: {error.id}: {one_line(error.message)}", f"hint: {one_line(error.hint)}"]


def as_llmc_error(error: BaseException) -> LlmcError:
    """Return `error` itself if it is one of ours, else the one that says what it means.

    Usage errors are known by what all versions of the option parser give them: exit code 2 and
    `format_message`. What nothing here knows is a defect in llmc: E0100.
    """
    if isinstance(error, LlmcError):
        return error
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return LlmcError("LLMC-E0798", "interrupted")
    if isinstance(error, SystemExit) and error.code == 143:
        return LlmcError("LLMC-E0799", "terminated")
    if getattr(error, "exit_code", None) == 2 and hasattr(error, "format_message"):
        return _usage_error(error)
    if isinstance(error, ModuleNotFoundError) and _package(error) in _EXTRA_OF:
        return missing_extra(_package(error))
    if isinstance(error, MemoryError) or "failed to map segment" in str(error):
        return LlmcError("LLMC-E0600", "an allocation failed")
    if isinstance(error, OSError):
        return _os_error(error)
    return LlmcError("LLMC-E0100", one_line(f"{type(error).__name__}: {error}"))


@contextmanager
def extras_named() -> Iterator[None]:
    """Around imports of what may not be installed; as a decorator, around a call that has some.

    Raises:
        LlmcError: LLMC-E0703, naming the extra to install, where a package of one is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if _package(error) in _EXTRA_OF:
            raise missing_extra(_package(error)) from error
        raise


def missing_extra(package: str) -> LlmcError:
    """The error for a package that only compiling, or only serving, needs."""
    install = f"pip install 'llmc-compiler[{_EXTRA_OF[package]}]'"
    return LlmcError("LLMC-E0703", f"{package} is not installed", f"install it with {install}")


def _package(error: ModuleNotFoundError) -> str:
    return (error.name or "").split(".")[0]


def _usage_error(error: BaseException) -> LlmcError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "llmc"
    message = getattr(error, "format_message")()  # noqa: B009  (not on BaseException)
    return LlmcError("LLMC-E0200", one_line(message), f"see `{command} --help`")


def _os_error(error: OSError) -> LlmcError:
    what = f"{error.filename}: " if error.filename else ""
    identifier = "LLMC-E0701" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "LLMC-E0707"
    return LlmcError(identifier, one_line(f"{what}{error.strerror or error}"))


def one_line(text: str) -> str:
    """`text` with single spaces; names out of files can't write control characters to terminals."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
