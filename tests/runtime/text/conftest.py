"""Makes `vocabularies` importable for the tests in this folder, and gives one tokenizer."""

import sys
from pathlib import Path

import pytest
from llmc.runtime.text.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    import vocabularies

    return vocabularies.tokenizer_of(vocabularies.byte_level)
