"""Compare tokenizers of GGUF vocabularies with the ids that llama.cpp records for them.

    python tests/conformance/gguf_vocabularies.py FOLDER

FOLDER holds files such as llama.cpp's `models/ggml-vocab-*.gguf` with their `.inp` and `.out`:
texts, and their ids without special tokens, one line each. A vocabulary without them is only built.
"""

import sys
from pathlib import Path

from llmc.base.errors import LlmcError
from llmc.compiler.frontend.gguf_file import GgufFile
from llmc.compiler.frontend.gguf_text.assets import gguf_text_assets
from llmc.runtime.text.tokenizer import Tokenizer

_BETWEEN = "\n__ggml_vocab_test__\n"


def vectors(path: Path) -> list[tuple[str, list[int]]]:
    """Texts and their ids, none if the files aren't there."""
    texts, ids = (path.with_name(path.name + end) for end in (".inp", ".out"))
    if not texts.exists() or not ids.exists():
        return []
    with texts.open(encoding="utf-8", newline="") as file:
        inputs = file.read().split(_BETWEEN)
    lines = ids.read_text(encoding="utf-8").splitlines()
    return [(t, [int(id) for id in line.split()]) for t, line in zip(inputs, lines, strict=False)]


def compare(path: Path) -> int:
    """The number of texts that differ; prints them."""
    try:
        assets, notes = gguf_text_assets(GgufFile(path))
    except LlmcError as error:
        print(f"{path.name}: refused: {error.message}")
        return 0
    assert assets.tokenizer is not None
    tokenizer, wrong = Tokenizer(assets.tokenizer), 0
    pairs = vectors(path)
    for text, ids in pairs:
        found = tokenizer.encode(text, add_special_tokens=False)
        if found != ids:
            wrong += 1
            print(f"{path.name}: {text!r}\n  llama.cpp {ids}\n  here      {found}")
    print(f"{path.name}: {len(pairs) - wrong} of {len(pairs)} equal", *notes, sep="\n    ")
    return wrong


if __name__ == "__main__":
    sys.exit(1 if sum(compare(path) for path in sorted(Path(sys.argv[1]).glob("*.gguf"))) else 0)
