"""Models are traced once and libraries built once, and real ones compiled once for all workers."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def shared(shared_compiler: None) -> None:
    """See `shared_work`."""
