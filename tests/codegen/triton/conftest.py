"""Makes `kernel_harness` and `generic_cases` importable (importlib mode adds no paths)."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
