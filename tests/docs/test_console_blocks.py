"""The console blocks of README.md are what the commands print, but for numbers.

`python tests/docs/console_blocks.py` writes them anew.
"""

from pathlib import Path

import pytest
from console_blocks import blocks, run, shape

KNOWN = blocks()
EXPLAIN = next(command for command in KNOWN if " explain " in command)


def command_of(verb: str) -> str:
    return next(command for command in KNOWN if command.startswith(f"llmc {verb} "))


def test_each_verb_of_the_session_is_there() -> None:
    verbs = [command.split()[1] for command in KNOWN]
    assert verbs == ["compile", "run", "inspect", "verify", "explain"]


def test_shapes_leave_out_numbers_only() -> None:
    assert shape("a  1.5 MB x\na 22 kB x\nok\n") == ["a N BYTES x", "ok"]
    assert shape("sha256 25f1afb7b1ee7c1c") == shape("sha256 0123456789abcdef") != shape("sha256")
    assert shape("blocks of 64") != shape("block of 64")


def test_an_error_is_explained_as_printed(tmp_path: Path) -> None:
    assert run(EXPLAIN, tmp_path) == KNOWN[EXPLAIN]


@pytest.mark.model
@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_what_is_printed_has_the_same_shape(verb: str, smollm2_int4: Path, tmp_path: Path) -> None:
    """Of the same model, compiled by its catalog name."""
    (tmp_path / "smol.llmc").symlink_to(smollm2_int4)
    command = command_of(verb)
    found, known = shape(run(command, tmp_path)), shape(KNOWN[command])
    told = {line for line in known if not line.startswith(("source:", "smol.llmc"))}
    assert told == {line for line in found if not line.startswith(("source:", "smol.llmc"))}


@pytest.mark.model
def test_blocks_hold_so_many_tokens(smollm2_int4: Path, tmp_path: Path) -> None:
    """The one number that every machine has."""
    (tmp_path / "smol.llmc").symlink_to(smollm2_int4)
    command = command_of("inspect")
    said = next(line for line in KNOWN[command].splitlines() if "blocks of" in line)
    assert said.split(", ")[-1] in run(command, tmp_path)
