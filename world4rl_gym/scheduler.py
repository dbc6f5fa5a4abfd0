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
        sigma_max: Largest noise level, where sampling starts. EDM's 80 rather than DIAMOND's 5:
            frame differences have heavy tails, and noise of 5 does not hide them in training.
        rho: Curvature of the levels between them.
        sigma_data: Deviation of the data, as in the denoiser.

    Raises:
        ValueError: A value is out of range, or sigma_min not below sigma_max.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        bounds = {
            "sigma_min": (1e-6, 1.0),
            "sigma_max": (1e-3, 1000.0),
            "rho": (1.0, 100.0),
            "sigma_data": (1e-3, 100.0),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value <= high:
                raise ValueError(f"{name}: expected a number in [{low}, {high}], got {value!r}")
        if not self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min, sigma_max: expected sigma_min < sigma_max, got {self.sigma_min} and "
                f"{self.sigma_max}"
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
