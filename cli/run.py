"""`llmc run`."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..base.errors import LlmcError
from .options import Artifact, Json, Target, Threads, print_result

if TYPE_CHECKING:
    from ..runtime.api.generation_options import GenerateOptions
    from ..runtime.api.stream import Stream


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
    target: Target = None,
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
    options: GenerateOptions = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop or (),
        "raw": raw,
    }
    text = _prompt(prompt)
    from ..runtime.api.model import load

    with load(
        artifact,
        target=target,
        threads=threads,
        max_context=max_context,
        verify_weights=verify_weights,
    ) as model:
        _print_generation(model.generate(text, **options), as_json)


def _print_generation(stream: "Stream", as_json: bool) -> None:
    """Prints the text as it comes, and what it took."""
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
    print_result(as_json, content, "")
    if not as_json:
        speed = f"{stats.tokens_per_s:.1f} tokens/s, first token after {stats.ttft_ms:.0f} ms"
        typer.echo(f"[{stats.output_tokens} tokens, {speed}]", err=True)


def _prompt(prompt: str | None) -> str:
    if prompt is None and (sys.stdin is None or sys.stdin.isatty()):
        raise LlmcError("LLMC-E0200", "there is no PROMPT, and nothing on standard input")
    try:
        # Whatever the locale, a prompt is UTF-8: its bytes as they were typed or piped.
        data = sys.stdin.buffer.read() if prompt is None else os.fsencode(prompt)
        return data.decode("utf-8")
    except UnicodeError as error:
        raise LlmcError("LLMC-E0205", "the prompt is not UTF-8 text") from error
