"""What all verbs share: the table of verbs, `--version`, and how a command line is run.

Every verb prints one JSON object on stdout with `--json`; how a command ends when it fails, usage
errors included, is `base/failures.py`. Logs and progress go to stderr.
"""

import io
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ..base.failures import run_guarded

VERBS = {
    "compile": ("compile", "compile_"),
    "run": ("run", "run"),
    "serve": ("serve", "serve"),
    "bench": ("bench", "bench"),
    "inspect": ("inspect", "inspect"),
    "verify": ("verify", "verify"),
    "explain": ("explain", "explain"),
    "opt": ("opt", "opt"),
}
"""Each verb's file in this folder and function in it, in the order of `llmc --help`."""
HIDDEN = ("opt",)
"""Verbs for who works on llmc; help doesn't list them."""


class _Verbs(TyperGroup):
    """Imports the file of a verb when the verb is used, or when help lists them all."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in VERBS if name not in HIDDEN]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return verb(cmd_name) if cmd_name in VERBS else None


def verb(name: str) -> Any:
    """The click command of a verb."""
    file, function = VERBS[name]
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(getattr(import_module(f".{file}", __package__), function))
    return typer.main.get_command(alone)


app = typer.Typer(
    name="llmc",
    cls=_Verbs,
    help=(
        "Compile a language model into one file, and run that file without the compiler.\n\n"
        "\b\n"
        "  llmc compile smollm2-135m --int4 -o smol.llmc\n"
        '  llmc run smol.llmc "Why is the sky blue?"\n'
        "  llmc serve smol.llmc"
    ),
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


def invoke(arguments: list[str]) -> int:
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
    sys.exit(run_guarded(invoke, sys.argv[1:]))
