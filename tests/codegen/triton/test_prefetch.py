"""Which lines of weights programs ask for early: those that their first tiles of K lie in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from interpreted_kernels import interpreted


def asked_for(monkeypatch: pytest.MonkeyPatch, w: torch.Tensor, tile: int, **sizes: Any) -> Any:
    """The bytes of `w`, by their place, that a program asks for."""
    module, seen = interpreted("prefetch"), []
    monkeypatch.setattr(module, "ask_for_lines", lambda p: seen.append(p.handle.data.copy()))
    module.prefetch_tile[(1,)](w, tile, **sizes)
    (addresses,) = seen
    return np.sort(addresses.astype(np.int64).reshape(-1) - w.data_ptr())


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second tile of 16 rows of 21, in bf16: two tiles of 64 columns are two lines."""
    w = torch.zeros(21, 200, dtype=torch.bfloat16)
    got = asked_for(
        monkeypatch, w, 1, N=21, K=196, W_STRIDE=200, FORMAT="plain", BLOCK_N=16, BLOCK_K=64,
        STEPS=2,
    )  # fmt: skip
    want = {row * 400 + line * 128 for row in range(16, 21) for line in range(2)}
    assert set(got) == want
    assert len(got) == 32


def test_short_rows_are_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.zeros(16, 64, dtype=torch.int8)
    got = asked_for(
        monkeypatch, w, 0, N=16, K=60, W_STRIDE=64, FORMAT="i8c", BLOCK_N=16, BLOCK_K=128, STEPS=2
    )
    assert set(got // 64) == set(range(16))
    assert got.max() < w.nbytes


@pytest.mark.parametrize(("form", "nbytes"), [("i4k", 256), ("i8b", 512)])
def test_panels(monkeypatch: pytest.MonkeyPatch, form: str, nbytes: int) -> None:
    """Panels 2 and 3, of which there is only the first: 4 blocks of 32 columns from its start."""
    blocks = 10
    w = torch.zeros(3 * blocks * nbytes, dtype=torch.uint8)
    got = asked_for(
        monkeypatch, w, 1, N=40, K=blocks * 32, W_STRIDE=0, FORMAT=form, BLOCK_N=32, BLOCK_K=128,
        STEPS=1,
    )  # fmt: skip
    start = 2 * blocks * nbytes
    assert set(got) == set(range(start, start + 4 * nbytes, 128))
