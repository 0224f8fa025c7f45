"""`llmc serve`. Its options are the settings of `server/config.py`."""

import gc
import inspect
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.errors import LlmcError
from ..base.failures import missing_extra
from ..server.config import ServerConfig, read_config, settings
from .options import Json, print_result

_PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "prometheus_client")


def serve(models: list[str] | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Serve artifacts through OpenAI's HTTP interface.

    \b
    llmc serve smol.llmc
    llmc serve chat=smol.llmc code=coder.llmc --port 8000 --api-key-file keys.txt
    llmc serve --config server.toml --drain-seconds 60

    FILE is an artifact, or NAME=FILE to serve it under another name than the file's. Then:

    \b
    curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
      -d '{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}'

    Ctrl-C or SIGTERM finishes what is running and stops; a second one stops at once.
    """
    said = read_config(config, {"models": models, **flags})
    if not said.models:
        raise LlmcError("LLMC-E0219", "there is no model to serve")
    _require_packages()
    stopped_by = _serve(said, as_json)
    if stopped_by == signal.SIGINT:
        raise LlmcError("LLMC-E0798", "interrupted before all requests were finished")
    if stopped_by is not None:
        raise LlmcError("LLMC-E0799", "terminated before all requests were finished")


def _serve(config: ServerConfig, as_json: bool) -> int | None:
    from ..runtime.api.model import load
    from ..server.app import create_app
    from ..server.connection.api_keys import read_keys
    from ..server.connection.listener import listen, serve, url_of
    from ..server.ops.stderr_log import start_logging

    keys = read_keys(config.api_key, config.api_key_file)
    start_logging()
    listening = listen(config)
    with ExitStack() as loaded:
        models = {
            name: loaded.enter_context(
                load(
                    path,
                    target=config.target or None,
                    threads=config.threads,
                    memory=config.memory_bytes,
                    max_context=config.max_context,
                    verify_weights=config.verify_weights,
                )
            )
            for name, path in config.artifacts
        }
        app = create_app(models, config, keys)
        catalog = app.state.llmc.catalog
        url = url_of(config, listening)

        for one in catalog:
            one.warm_up()
        gc.collect()
        gc.freeze()  # what is there now stays: no pause while it is looked through again

        def started() -> None:
            content = {
                "url": url,
                "models": [
                    {"name": one.name, "sequences": one.capacity.sequences, "context": one.context}
                    for one in catalog
                ],
            }
            lines = [f"{one.name}: room for {one.capacity}" for one in catalog]
            print_result(as_json, content, "\n".join([*lines, f"serving on {url}"]))
            sys.stdout.flush()

        return serve(app, catalog, config, [listening], started)


def _require_packages() -> None:
    """What is missing is said before a model is loaded."""
    from importlib.util import find_spec

    for package in _PACKAGES:
        if find_spec(package) is None:
            raise missing_extra(package)


def _signature() -> inspect.Signature:
    """The command's: an option for each setting, all without a value of their own, so that those
    of the file show through."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    files = Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=]FILE…", help="Artifacts (.llmc).")
    ]
    file = Annotated[Path | None, typer.Option(help="Settings as TOML; flags win over it.")]
    parameters = [
        inspect.Parameter("models", keyword, default=None, annotation=files),
        inspect.Parameter("config", keyword, default=None, annotation=file),
    ]
    for one in settings():
        shown = "" if one.default in (None, "", [], False) else f" [default: {one.default}]"
        option = typer.Option(help=one.description.replace("`", "") + shown)
        kind = list[str] | None if one.kind == list[str] else one.kind | None
        annotation = Annotated[kind, option]
        parameters.append(inspect.Parameter(one.name, keyword, default=None, annotation=annotation))
    parameters.append(inspect.Parameter("as_json", keyword, default=False, annotation=Json))
    return inspect.Signature(parameters)


serve.__signature__ = _signature()  # type: ignore[attr-defined]
serve.__annotations__ = {p.name: p.annotation for p in _signature().parameters.values()}
