"""What a server is told: one table of settings, from a TOML file and from flags of the same names.

`max_waiting` in the file is `--max-waiting` on the command line; a flag wins over the file. The
table below is also the command's help and is held against `docs/server.md` by a test.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from ..base.errors import LlmcError
from ..base.sizes import parse_size

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=1e6)]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a server, with what they are when nothing is said."""

    models: Annotated[
        list[str], Meta(description="Artifacts to serve, each `FILE` or `NAME=FILE`.")
    ] = []
    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    ] = 8000
    unix_socket: Annotated[
        str, Meta(description="Listen on this Unix socket instead of host and port.")
    ] = ""
    api_key: Annotated[
        list[str],
        Meta(description="A key that clients must send, `KEY` or `NAME:KEY`; may be repeated."),
    ] = []
    api_key_file: Annotated[str, Meta(description="A file with one such key a line.")] = ""
    isolate_keys: Annotated[
        bool, Meta(description="Share cached prefixes only among requests with the same key.")
    ] = False
    cors_origin: Annotated[
        list[str], Meta(description="An origin whose pages may call the server; may be repeated.")
    ] = []
    threads: Annotated[
        Positive | None, Meta(description="Threads of each program (default: all usable cores).")
    ] = None
    target: Annotated[str, Meta(description="Which program, of artifacts for several targets.")] = (
        ""
    )
    memory: Annotated[
        str, Meta(description="Memory that each model may take, such as 8GB (default: half).")
    ] = ""
    max_context: Annotated[
        Positive | None, Meta(description="Longest sequence (default: the compiled one).")
    ] = None
    verify_weights: Annotated[
        bool, Meta(description="Check the weights' digest before serving.")
    ] = False
    sampling_defaults: Annotated[
        Literal["model", "neutral"],
        Meta(description="What holds where a request says nothing: the model author's, or none."),
    ] = "model"
    max_body: Annotated[str, Meta(description="Largest request body, such as 4MB.")] = "4MB"
    max_prompt_tokens: Annotated[
        Positive | None, Meta(description="Longest prompt (default: the context).")
    ] = None
    max_output_tokens: Annotated[
        Positive | None, Meta(description="Most tokens that a request may ask for.")
    ] = None
    max_n: Annotated[
        int, Meta(ge=1, le=1024, description="Most continuations or prompts in one request.")
    ] = 64
    max_waiting: Annotated[
        int, Meta(ge=0, description="Sequences of a model that may wait; beyond that it is 429.")
    ] = 256
    max_connections: Annotated[Positive, Meta(description="Open connections at most.")] = 4096
    request_timeout: Annotated[
        Seconds, Meta(description="Seconds that a request may take from arrival to its end.")
    ] = 600.0
    body_timeout: Annotated[
        Seconds, Meta(description="Seconds that a client may take to send a request.")
    ] = 30.0
    write_timeout: Annotated[
        Seconds, Meta(description="Seconds that a client may leave its stream unread.")
    ] = 60.0
    keep_alive: Annotated[
        Seconds, Meta(description="Seconds that an idle connection is kept open.")
    ] = 75.0
    drain_seconds: Annotated[
        float, Meta(ge=0, le=1e6, description="Seconds that running requests get after SIGTERM.")
    ] = 30.0
    access_log: Annotated[bool, Meta(description="Log one line a request on stderr.")] = False

    def __post_init__(self) -> None:
        _ = self.max_body_bytes, self.memory_bytes
        names = [name for name, _ in self.artifacts]
        for name in names:
            if names.count(name) > 1:
                raise LlmcError("LLMC-E0219", f"two models are called {name!r}")
        if "*" in self.cors_origin and (self.api_key or self.api_key_file):
            raise LlmcError("LLMC-E0219", "cors_origin '*' and API keys exclude one another")

    @property
    def max_body_bytes(self) -> int:
        """Bytes of the largest request body."""
        return parse_size(self.max_body)

    @property
    def memory_bytes(self) -> int | None:
        """Bytes that each model may take, None for what `load` does by itself."""
        return parse_size(self.memory) if self.memory else None

    @property
    def artifacts(self) -> list[tuple[str, Path]]:
        """Name and path of each model; without a name it is that of the file."""
        return [_named(entry) for entry in self.models]


def _named(entry: str) -> tuple[str, Path]:
    """The name before the first `=`, which may be `org/name`, and the file behind it. A path that
    begins as paths do, or that is there with its `=`, is a file without a name."""
    name, equals, path = entry.partition("=")
    is_path = name.startswith(("/", "./", "../", "~")) or ("/" in name and Path(entry).exists())
    if equals and name and not is_path:
        if not all(name.split("/")):
            raise LlmcError("LLMC-E0219", f"{name!r} is no name for a model")
        if not path:
            raise LlmcError("LLMC-E0219", f"the model {name!r} has no file")
        return name, Path(path)
    if not entry:
        raise LlmcError("LLMC-E0219", "a model has no file")
    return Path(entry).resolve().name.removesuffix(".llmc"), Path(entry)


class Setting(NamedTuple):
    """One setting: `kind` is its type without None, `default` what holds when nothing is said."""

    name: str
    kind: Any
    default: Any
    description: str

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")


def settings() -> Iterator[Setting]:
    """Every setting but `models`, which are the command's arguments."""
    hints = get_type_hints(ServerConfig, include_extras=True)
    for field in msgspec.structs.fields(ServerConfig):
        if field.name == "models":
            continue
        metas = [m for m in get_args(hints[field.name])[1:] if isinstance(m, Meta)]
        description = next(m.description for m in metas if m.description)
        assert description is not None
        default = field.default
        if default is msgspec.NODEFAULT:
            default = field.default_factory()  # type: ignore[operator]
        yield Setting(field.name, _bare(hints[field.name]), default, description)


def _bare(hint: Any) -> Any:
    """`int` for `Annotated[int | None, …]`, and `str` for a choice of strings."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return str
    options = [one for one in get_args(hint) if one is not type(None)]
    return hint if get_origin(hint) is list or not options else _bare(options[0])


def read_config(path: Path | None, flags: Mapping[str, Any]) -> ServerConfig:
    """The settings of a file, if one is given, under those flags that were said (not None).

    Errors: E0219 for what isn't valid TOML, an unknown setting or a value out of range.
    """
    said = _read_file(path) if path is not None else {}
    said.update({name: value for name, value in flags.items() if value not in (None, [], ())})
    try:
        return msgspec.convert(said, ServerConfig)
    except msgspec.ValidationError as error:
        where = f"{path}: " if path is not None else ""
        raise LlmcError("LLMC-E0219", f"{where}{error}".replace("`$.", "`")) from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise LlmcError("LLMC-E0219", f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LlmcError("LLMC-E0219", f"{path}: {error}") from error
