"""Who may ask: API keys.

Only hashes of the keys are kept. A key that is sent is hashed and compared with all of them in
constant time, so neither how much of it is right nor which one it is shows in the time. A key may
carry a name, by which requests of different clients take turns.
"""

import os
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from ...base.errors import LlmcError

VARIABLE = "LLMC_API_KEY"
_NAME = re.compile(r"([A-Za-z0-9_.-]{1,64}):(.+)")


class ApiKeys:
    """The keys that a server accepts; without any, everyone may ask."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._keys: list[tuple[bytes, str]] = []
        for number, entry in enumerate(entries, 1):
            named = _NAME.fullmatch(entry)
            name, key = (named[1], named[2]) if named else (f"key-{number}", entry)
            if not key.isascii() or not key.isprintable() or " " in key:
                raise LlmcError("LLMC-E0219", f"API key {number} has characters that keys can't")
            self._keys.append((_digest(key.encode()), name))

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._keys)

    def name_of(self, authorization: bytes) -> str | None:
        """The name of the key in this `Authorization` header, None if it is no key of ours."""
        scheme, _, key = authorization.partition(b" ")
        sent = _digest(key.strip() if scheme.lower() == b"bearer" else b"")
        found = None
        for digest, name in self._keys:
            if compare_digest(digest, sent):
                found = name
        return found


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()


def read_keys(
    flags: Iterable[str], file: str, environment: Mapping[str, str] = os.environ
) -> ApiKeys:
    """Keys from flags, a file (one a line, `#` begins a comment) and `LLMC_API_KEY` (one or several
    with commas between). Errors: E0219."""
    entries = [*flags]
    if file:
        try:
            lines = Path(file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LlmcError("LLMC-E0219", f"the file of API keys {file}: {error}") from error
        found = [line.strip() for line in lines]
        found = [line for line in found if line and not line.startswith("#")]
        if not found:  # or a server that should be closed would be open
            raise LlmcError("LLMC-E0219", f"the file of API keys {file} holds none")
        entries += found
    entries += [key.strip() for key in environment.get(VARIABLE, "").split(",") if key.strip()]
    if not all(entries):
        raise LlmcError("LLMC-E0219", "an API key is empty")
    return ApiKeys(entries)
