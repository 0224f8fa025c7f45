"""Rows beyond the tokens, convolutions and shifts along them, against torch."""

import pytest
import torch
import torch.nn.functional as F
from llmc.base.errors import LlmcError
from test_aten import WIDTH, check

OUT = 4


def columns(x: torch.Tensor) -> torch.Tensor:
    """[1, C, T], as convolutions take it."""
    return x.transpose(1, 2)


def weights(out: int, each: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(out + each + width)
    return torch.randn(out, each, width, generator=generator), torch.randn(out, generator=generator)


CHANNEL, CHANNEL_BIAS = weights(WIDTH, 1, 4)
DENSE, DENSE_BIAS = weights(OUT, WIDTH, 3)
GROUPED, GROUPED_BIAS = weights(OUT, WIDTH // 2, 3)
POINT, POINT_BIAS = weights(OUT, WIDTH, 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.conv1d(columns(x), CHANNEL, padding=3, groups=WIDTH)[..., : x.shape[1]],
        lambda x: F.conv1d(columns(x), CHANNEL, CHANNEL_BIAS, padding=3, groups=WIDTH)[:, :, :-3],
        lambda x: F.conv1d(F.pad(columns(x), (3, 0)), CHANNEL, CHANNEL_BIAS, groups=WIDTH),
        lambda x: F.silu(F.conv1d(columns(x), CHANNEL, padding=3, groups=WIDTH))[..., :-3],
        lambda x: F.conv1d(F.pad(columns(x), (2, 0)), DENSE, DENSE_BIAS),
        lambda x: F.conv1d(columns(x), GROUPED, GROUPED_BIAS, padding=2, groups=2)[..., :-2],
        lambda x: F.conv1d(columns(x), POINT, POINT_BIAS),
    ],
    ids=["cut", "cut from the end", "padded before", "activated before the cut", "dense", "grouped",
         "of one token"],
)  # fmt: skip
def test_a_causal_convolution(function) -> None:
    """However it is padded and cut. Sums in another order: a few roundings."""
    check([function], tolerance=1e-5)


def test_a_convolution_of_what_another_one_gave_before_the_first_token() -> None:
    """Which is its bias there, not 0."""

    def twice(x: torch.Tensor) -> torch.Tensor:
        y = F.conv1d(F.pad(columns(x), (5, 0)), CHANNEL, CHANNEL_BIAS, groups=WIDTH)
        return F.conv1d(y, DENSE, DENSE_BIAS)

    check([twice], tolerance=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.pad(x, (0, 0, 1, -1)),
        lambda x: F.pad(x, (0, 0, 3, 0))[:, : x.shape[1]],
        lambda x: torch.cat([x.new_zeros(1, 1, WIDTH), x[:, :-1]], 1),
        lambda x: torch.cat([torch.full((1, 1, WIDTH), 2.5), x[:, :-1]], 1),
        lambda x: F.pad(columns(x), (2, 0)).unfold(-1, 3, 1).flip(-1),
        lambda x: x[:, -x.shape[1] :],
    ],
    ids=["shifted", "padded and cut", "behind zeros", "behind a row", "windows", "all of them"],
)
def test_rows_of_earlier_tokens(function) -> None:
    check([function])


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: F.conv1d(columns(x), CHANNEL[..., :3], padding=1, groups=WIDTH), "1 later"),
        (lambda x: F.conv1d(columns(x), CHANNEL, padding=3, groups=WIDTH)[..., 3:], "3 later"),
        (lambda x: F.pad(x, (0, 0, -1, 1)), "1 later"),
        (lambda x: F.pad(x[:, :-1], (0, 0, 0, 1)), "cut or padded before"),
        (lambda x: F.conv1d(columns(x), CHANNEL, padding=6, groups=WIDTH, dilation=2), "gaps"),
        (lambda x: F.pad(x, (0, 0, 1, -1), value=3.0), "something else than zeros"),
    ],
    ids=["centered", "the end", "shifted back", "zeros at the end", "gaps", "padded with ones"],
)
def test_what_sees_other_rows_is_refused(function, why: str) -> None:
    """A step has no later tokens."""
    with pytest.raises(LlmcError, match=why):
        check([function])
