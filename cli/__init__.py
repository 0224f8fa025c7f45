"""The `llmc` command: thin verbs over `compiler/` and `runtime/`.

Importing this imports nothing else; `app.py` imports the file of the one verb that is asked for.
"""

from typing import NoReturn


def main() -> NoReturn:
    """Run the command line that the process was started with."""
    from .app import main

    main()
