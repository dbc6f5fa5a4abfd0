"""The sampler's settings, read strictly; the sampler itself is diffusers' `EDMEulerScheduler`."""

from __future__ import annotations

import dataclasses

from diffusers import EDMEulerScheduler


@dataclasses.dataclass(frozen=True)
class SchedulerConfig:
    """Noise levels of EDM (Karras et al., arXiv 2206.00364, equation 5).

    Attributes:
        sigma_min: Smallest noise level; of two steps it is the second's.
        sigma_max: Largest noise level, where sampling starts.
        rho: Curvature of the levels between them.
        sigma_data: Deviation of the data.

    Raises:
        ValueError: A value is out of range, or sigma_min not below sigma_max.
    """

    sigma_min: float = 0.2
    sigma_max: float = 20.0
    rho: float = 7.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        bounds = {
            "sigma_min": (1e-6, 10.0),
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

    def make(self) -> EDMEulerScheduler:
        """The scheduler with these levels."""
        return EDMEulerScheduler(**dataclasses.asdict(self))
