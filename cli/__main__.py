"""`python -m llmc.cli` is the `llmc` command."""

from . import main

main()
