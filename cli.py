"""The `llmc` command: thin verbs over `compiler/` and `runtime/`, imported when a verb needs them.

Every verb prints one JSON object on stdout with `--json`; how a command ends when it fails, usage
errors included, is `runtime/failures.py`. Logs and progress go to stderr.
"""

import gc
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .runtime.errors import ERRORS, LlmcError
from .runtime.failures import as_content, as_lines, run_guarded

SCHEMES = ("f32", "bf16", "int8", "int4", "int4-sym")
CACHES = ("f32", "bf16", "int8")
LEVELS = ("native", "x86-64-v3", "x86-64-v4", "portable", "aarch64", "sapphire-rapids")

app = typer.Typer(
    name="llmc",
    help=(
        "Compile a language model into one file, and run that file without the compiler.\n\n"
        "\b\n"
        "  llmc compile smollm2-135m --int4 -o smol.llmc\n"
        '  llmc run smol.llmc "Why is the sky blue?"\n'
        "  llmc bench smol.llmc"
    ),
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Artifact = Annotated[Path, typer.Argument(metavar="FILE", help="An artifact (.llmc).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Threads = Annotated[
    int | None, typer.Option(help="Threads of the program (default: all usable cores).")
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"llmc {version_of('llmc-compiler')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command("compile")
def compile_(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A catalog name, a Hugging Face folder, a .gguf file, or a Hub id.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write (default: NAME.llmc).")
    ] = None,
    target: Annotated[str, typer.Option(help="What the artifact runs on: cpu.")] = "cpu",
    int8: Annotated[bool, typer.Option("--int8", help="Short for --quant int8.")] = False,
    int4: Annotated[bool, typer.Option("--int4", help="Short for --quant int4.")] = False,
    quant: Annotated[
        str | None,
        typer.Option(metavar="SCHEME", help=f"{', '.join(SCHEMES)} (default: {SCHEMES[0]})."),
    ] = None,
    kv_cache: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help=f"{', '.join(CACHES)} (default: the scheme's own)."),
    ] = None,
    cpu: Annotated[
        str,
        typer.Option(metavar="LEVEL,…", help=f"Instruction sets: {', '.join(LEVELS)}."),
    ] = LEVELS[0],
    max_ram: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most memory to use, such as 2GB.")
    ] = None,
    max_context: Annotated[
        int | None, typer.Option(help="Longest sequence (default: the model's own, at most 8192).")
    ] = None,
    max_kl: Annotated[
        float | None, typer.Option(help="Refuse if KL against the source exceeds this (nats).")
    ] = None,
    allow_field: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Accept a config field that the trace ignores."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run model code from the checkpoint.")
    ] = False,
    format: Annotated[str, typer.Option(help="file (one .llmc) or dir.")] = "file",
    as_json: Json = False,
) -> None:
    """Compile a model into an artifact.

    \b
    llmc compile smollm2-135m --int4 -o smol.llmc
    llmc compile ./my-checkpoint --quant bf16 --cpu x86-64-v3,x86-64-v4,portable -o my.llmc
    """
    scheme = _scheme(int8, int4, quant)
    levels = tuple(level for level in cpu.split(",") if level)
    _require("--kv-cache", "LLMC-E0201", (kv_cache or CACHES[0],), CACHES)
    _require("--cpu", "LLMC-E0202", levels, LEVELS)
    _require("--target", "LLMC-E0203", (target,), ("cpu",))
    _require("--format", "LLMC-E0200", (format,), ("file", "dir"))
    options: dict[str, Any] = {
        "target": target, "scheme": scheme, "kv_cache": kv_cache, "levels": levels,
        "output": output, "max_context": max_context, "max_kl": max_kl, "format": format,
        "max_ram": None if max_ram is None else parse_size(max_ram),
        "allow_fields": tuple(allow_field or ()), "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    from .compiler.destination import check_output, output_path

    _require_places(model)
    check_output(output_path(output, model), options["format"], model)

    with _collection_paused():
        from .compiler.driver import compile
    from .runtime.progress import reporter

    with reporter() as progress:
        report = compile(model, progress=progress, **options)
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    size = f"{report.bytes / 1e6:.1f} MB, {report.seconds:.1f} s, {report.peak_rss_mb:.0f} MB peak"
    _print(as_json, asdict(report), f"{report.artifact}  ({size})")


@app.command()
def run(
    artifact: Artifact,
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="The text (default: stdin).")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the K most likely tokens (0: all).")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the most likely tokens up to P.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Drop tokens below P times the best.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 avoids repeats.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End at this text.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template.")] = False,
    threads: Threads = None,
    max_context: Annotated[int | None, typer.Option(help="Keep less cache.")] = None,
    verify_weights: Annotated[
        bool, typer.Option("--verify-weights", help="Check the weights' digest first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Generate text, printed as it comes.

    \b
    llmc run smol.llmc "Why is the sky blue?"
    echo "Once upon a time" | llmc run smol.llmc --raw --temperature 0.8 --seed 1
    """
    text = _prompt(prompt)
    from .runtime.generate import load

    with load(
        artifact, threads=threads, max_context=max_context, verify_weights=verify_weights
    ) as model:
        stream = model.generate(
            text,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop or (),
            raw=raw,
        )
        for chunk in stream:
            if not as_json:
                typer.echo(chunk.text, nl=False)
                sys.stdout.flush()
        stats = stream.stats
    content = {
        "text": stream.text,
        "token_ids": stream.token_ids,
        "prompt_token_ids": stream.prompt_token_ids,
        "finish_reason": stream.finish_reason,
        "ttft_ms": stats.ttft_ms,
        "tokens_per_s": stats.tokens_per_s,
    }
    _print(as_json, content, "")
    if not as_json:
        speed = f"{stats.tokens_per_s:.1f} tokens/s, first token after {stats.ttft_ms:.0f} ms"
        typer.echo(f"[{stats.output_tokens} tokens, {speed}]", err=True)


@app.command()
def bench(
    artifact: Artifact,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 512,
    output_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 64,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    threads: Threads = None,
    repeat: Annotated[int, typer.Option(help="Repetitions; medians are reported.")] = 3,
    price_per_hour: Annotated[
        float | None, typer.Option(metavar="USD", help="Price of this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure speed, latency and memory use.

    \b
    llmc bench smol.llmc
    llmc bench smol.llmc --batch 8 --prompt-tokens 128 --price-per-hour 0.20 --json
    """
    from .runtime.bench import Load, describe
    from .runtime.bench import bench as measure
    from .runtime.progress import reporter

    shape = Load(prompt_tokens, output_tokens, batch, repeat, threads)
    with reporter() as progress:
        result = measure(artifact, shape, price_per_hour=price_per_hour, progress=progress)
    _print(as_json, asdict(result), describe(result))


@app.command()
def inspect(
    artifact: Artifact,
    graph: Annotated[bool, typer.Option("--graph", help="Print the compiled graph.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Print the memory plan.")] = False,
    as_json: Json = False,
) -> None:
    """Show what is inside an artifact.

    \b
    llmc inspect smol.llmc
    llmc inspect smol.llmc --graph | less
    """
    from .runtime.inspection import Inspection

    inspection = Inspection(artifact)
    if as_json:
        return _print(True, inspection.as_json(graph=graph, memory=memory), "")
    parts = [inspection.graph] if graph else []
    parts += [inspection.memory()] if memory else []
    return _print(False, {}, "\n\n".join(parts or [inspection.summary()]))


@app.command()
def verify(
    artifact: Artifact,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Compile the source again and compare.")
    ] = False,
    source: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Where the source is, for --rebuild.")
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check digests and recorded answers.

    \b
    llmc verify smol.llmc
    llmc verify smol.llmc --rebuild --source ./my-checkpoint
    """
    from .runtime.conformance import verify as check

    checks = check(artifact, threads=threads)
    if rebuild and all(one.ok for one in checks):
        from .compiler.rebuild import rebuild as compile_again
        from .runtime.progress import reporter

        with reporter() as progress:
            checks += compile_again(artifact, source, progress)
    failed = [one for one in checks if not one.ok]
    content: dict[str, Any] = {"ok": not failed, "checks": [asdict(one) for one in checks]}
    lines = [f"{'ok    ' if one.ok else 'FAILED'}  {one.name}: {one.detail}" for one in checks]
    if not failed:
        return _print(as_json, content, "\n".join(lines))
    kinds = {"digest": "LLMC-E0504", "source": "LLMC-E0511", "rebuilt": "LLMC-E0511"}
    identifier = kinds.get(failed[0].name.split()[0], "LLMC-E0510")
    error = LlmcError(identifier, f"{failed[0].name}: {failed[0].detail}")
    _print(as_json, {**content, **as_content(error)}, "\n".join([*lines, *as_lines(error)]))
    raise typer.Exit(error.exit_code)


@app.command()
def explain(
    identifier: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Such as LLMC-E0401.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say more about an error, or list them all.

    \b
    llmc explain LLMC-E0401
    """
    if identifier is None:
        titles = {name: info.title for name, info in ERRORS.items()}
        lines = [f"{name}  {title}" for name, title in titles.items()]
        return _print(as_json, {"errors": titles}, "\n".join(lines))
    name = identifier.upper()
    if name not in ERRORS:
        raise LlmcError("LLMC-E0207", f"there is no error {identifier}")
    info = ERRORS[name]
    text = f"{name}: {info.title}\n\n{info.explanation}\n\nWhat to do: {info.advice}"
    return _print(as_json, {"id": name, **asdict(info)}, text)


def parse_size(text: str) -> int:
    """Return the bytes that a size such as `800M`, `1.5GB` or `2GiB` means; E0205 otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise LlmcError("LLMC-E0205", f"{text!r} is not a size", "give one such as 800MB or 2GiB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))


@contextmanager
def _collection_paused() -> Iterator[None]:
    gc.disable()  # importing torch makes a million objects that stay
    yield
    gc.freeze()  # nor are they looked through again later
    gc.enable()


def _require_places(model: str) -> None:
    if "\0" in model:
        raise LlmcError("LLMC-E0409", f"{model!r} names nothing")
    try:
        Path.cwd()  # without one, importing torch would end the process
    except FileNotFoundError as error:
        raise LlmcError("LLMC-E0707", "the current folder no longer exists", "cd to one") from error


def _scheme(int8: bool, int4: bool, quant: str | None) -> str:
    chosen = ["int8"] * int8 + ["int4"] * int4 + ([quant] if quant else [])
    if len(chosen) > 1:
        raise LlmcError("LLMC-E0200", f"{' and '.join(chosen)} exclude one another")
    scheme = chosen[0] if chosen else SCHEMES[0]
    _require("--quant", "LLMC-E0201", (scheme,), SCHEMES)
    return scheme


def _require(
    option: str, identifier: str, values: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
    for value in values or ("",):
        if value not in allowed:
            raise LlmcError(identifier, f"{option}: {value!r} is not one of {', '.join(allowed)}")


def _prompt(prompt: str | None) -> str:
    if prompt is None and (sys.stdin is None or sys.stdin.isatty()):
        raise LlmcError("LLMC-E0200", "there is no PROMPT, and nothing on standard input")
    try:
        # Whatever the locale, a prompt is UTF-8: its bytes as they were typed or piped.
        data = sys.stdin.buffer.read() if prompt is None else os.fsencode(prompt)
        return data.decode("utf-8")
    except UnicodeError as error:
        raise LlmcError("LLMC-E0205", "the prompt is not UTF-8 text") from error


def _print(as_json: bool, content: dict[str, Any], text: str) -> None:
    typer.echo(json.dumps(content, default=str, allow_nan=False) if as_json else text)


def _invoke(arguments: list[str]) -> int:
    """Run one command; return its exit code. Errors leave it as exceptions."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("llmc", arguments) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    return 0


def main() -> NoReturn:
    """Run the command line that the process was started with."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack characters of the text
            stream.reconfigure(errors="replace")
    sys.exit(run_guarded(_invoke, sys.argv[1:]))
