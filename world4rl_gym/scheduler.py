"""Noise levels and the Euler sampler of EDM (Karras et al. 2022, arXiv 2206.00364)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class EulerScheduler:
    """Deterministic Euler sampler over Karras' noise levels.

    Its saved form is a `scheduler_config.json` that diffusers' `EDMEulerScheduler` opens too.

    Attributes:
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level, where sampling starts.
        rho: Curvature of the levels between them.
        sigma_data: Deviation of the data, as in the denoiser.

    Raises:
        ValueError: The levels are not 0 < sigma_min < sigma_max, or rho or sigma_data not positive.
    """

    sigma_min: float = 0.002
    sigma_max: float = 5.0
    rho: float = 7.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max <= 1000:
            raise ValueError(
                "sigma_min, sigma_max: expected 0 < sigma_min < sigma_max <= 1000, "
                f"got {self.sigma_min}, {self.sigma_max}"
            )
        if not (0 < self.rho <= 100 and 0 < self.sigma_data <= 100):
            raise ValueError(
                f"rho, sigma_data: expected within (0, 100], got {self.rho}, {self.sigma_data}"
            )

    def sigmas(self, num_inference_steps: int) -> Tensor:
        """Returns the levels from `sigma_max` down to 0: `(num_inference_steps + 1,)` float32.

        Equation 5 of Karras et al.
        """
        ramp = torch.linspace(0, 1, num_inference_steps, dtype=torch.float64)
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        levels = (high + ramp * (low - high)) ** self.rho
        return torch.cat([levels, levels.new_zeros(1)]).float()

    def sample(
        self, denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, num_inference_steps: int
    ) -> Tensor:
        """Integrates from noise to data with Euler steps.

        Args:
            denoise: (noisy `(B, ...)`, sigma `(B,)`) -> denoised `(B, ...)`.
            noise: Standard normal `(B, ...)`.
            num_inference_steps: Number of calls of `denoise`.

        Returns:
            The sample, shaped as `noise`.
        """
        sigmas = self.sigmas(num_inference_steps).tolist()
        x = noise * sigmas[0]
        for sigma, next_sigma in itertools.pairwise(sigmas):
            denoised = denoise(x, x.new_full((len(x),), sigma))
            x = denoised + (x - denoised) * (next_sigma / sigma)
        return x
