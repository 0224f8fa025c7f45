"""Makes `own_models` importable for the tests in this folder (importlib mode adds no paths)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
