"""The counter-based noise is standard normal and independent in every direction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from world4rl_gym.noise import row_noise

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def noise() -> Tensor:
    """`(1000 rows, 4 steps, 768)` of consecutive seeds and steps, the hardest case of a hash."""
    seeds, steps = torch.arange(1000).repeat_interleave(4), torch.arange(4).repeat(1000)
    return row_noise(seeds, steps, SHAPE).view(1000, 4, -1).double()


def test_moments_are_those_of_the_standard_normal(noise: Tensor) -> None:
    count = noise.numel()  # 3 million: standard errors 0.0006, 0.0008, 0.0014, 0.0028
    assert abs(noise.mean()) < 5 * count**-0.5
    assert abs(noise.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((noise**3).mean()) < 5 * (15 / count) ** 0.5
    assert abs((noise**4).mean() - 3) < 5 * (96 / count) ** 0.5


def test_tails_and_quantiles_are_those_of_the_standard_normal(noise: Tensor) -> None:
    normal = torch.distributions.Normal(0.0, 1.0)
    ordered = noise.flatten().sort().values
    grid = torch.linspace(0, 1, len(ordered), dtype=torch.float64)
    distance = (normal.cdf(ordered) - grid).abs().max()
    assert distance < 1.95 / len(ordered) ** 0.5  # Kolmogorov-Smirnov at 0.1 %
    assert 4.5 < ordered[-1] < 5.9


def test_rows_steps_and_elements_are_independent(noise: Tensor) -> None:
    for a, b in (
        (noise[1:], noise[:-1]),
        (noise[:, 1:], noise[:, :-1]),
        (noise[:, :, 1:], noise[:, :, :-1]),
        (noise[:, :, 384:], noise[:, :, :384]),  # the two halves of Box and Muller's pairs
    ):
        bound = 5 / a.numel() ** 0.5
        assert abs((a * b).mean()) < bound
        assert abs(((a**2 - 1) * (b**2 - 1)).mean() / 2) < bound
    rows = noise.flatten(1)
    correlation = rows @ rows.T / rows.shape[1]
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() < 6.5 / rows.shape[1] ** 0.5


def test_every_mean_over_rows_is_near_nought(noise: Tensor) -> None:
    """No element of the frame has a bias that would tint all episodes alike."""
    assert noise.flatten(0, 1).mean(0).abs().max() < 5 / 4000**0.5


def test_a_row_does_not_depend_on_its_batch() -> None:
    seeds, steps = torch.tensor([7, 2**32 - 1, 0]), torch.tensor([0, 49, 3])
    together = row_noise(seeds, steps, SHAPE)
    for row in range(3):
        alone = row_noise(seeds[row : row + 1], steps[row : row + 1], SHAPE)
        assert torch.equal(together[row], alone[0])
    assert together.isfinite().all() and together.dtype == torch.float32


def test_an_odd_number_of_elements_is_refused() -> None:
    with pytest.raises(ValueError, match="even number"):
        row_noise(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), (3, 3, 3))
