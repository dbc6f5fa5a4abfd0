"""The folder as the diffusers ecosystem sees it, and our sampler against theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import EDMEulerScheduler

from world4rl_gym.scheduler import EulerScheduler
from world4rl_gym.world_model import WorldModel


def test_components_are_named_as_diffusers_names_them(tiny_folder: str) -> None:
    for name, class_name in (("denoiser", "Denoiser"), ("reward_head", "RewardHead")):
        folder = Path(tiny_folder) / name
        files = {path.name for path in folder.iterdir()}
        assert files == {"config.json", "diffusion_pytorch_model.safetensors"}
        assert json.loads((folder / "config.json").read_text())["_class_name"] == class_name


def test_the_scheduler_opens_in_diffusers(tiny_folder: str, tiny_world_model: WorldModel) -> None:
    theirs = EDMEulerScheduler.from_pretrained(tiny_folder, subfolder="scheduler")
    ours = tiny_world_model.scheduler
    for name in ("sigma_min", "sigma_max", "sigma_data", "rho"):
        assert getattr(theirs.config, name) == getattr(ours, name)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "levels", [{}, {"sigma_max": 5.0}, {"sigma_min": 0.01, "sigma_max": 20.0, "rho": 3.0}]
)
def test_our_sampler_agrees_with_theirs(tmp_path: Path, steps: int, levels: dict) -> None:
    ours = EulerScheduler(**levels)
    record = {"_class_name": "EDMEulerScheduler", **vars(ours)}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(record))
    theirs = EDMEulerScheduler.from_pretrained(tmp_path)
    theirs.set_timesteps(steps)
    generator = torch.Generator().manual_seed(steps)
    noise = torch.randn(2, 3, 8, 8, generator=generator)
    weights = torch.randn(3, 3, generator=generator) / 3
    data = ours.sigma_data

    def network(scaled: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oc,bchw->bohw", weights, scaled).tanh() + c_noise.view(-1, 1, 1, 1)

    def denoise(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """EDM's preconditioning around `network`, as diffusers' scheduler applies it."""
        s = sigma.view(-1, 1, 1, 1)
        total = s.square() + data**2
        output = network(noisy / total.sqrt(), sigma.log() / 4)
        return data**2 / total * noisy + s * data / total.sqrt() * output

    sample = noise * ours.sigma_max  # not init_noise_sigma, which is sqrt(sigma_max^2 + 1)
    for timestep in theirs.timesteps:
        scaled = theirs.scale_model_input(sample, timestep)
        output = network(scaled, timestep.expand(2))
        sample = theirs.step(output, timestep, sample, s_churn=0.0).prev_sample
    expected = ours.sample(denoise, noise, steps)
    # theirs subtracts the noise from itself, which leaves a rounding error of its size
    rounding = torch.finfo(torch.float32).eps * ours.sigma_max * float(noise.abs().max())
    assert torch.allclose(sample, expected, rtol=0, atol=1e-5 + rounding)
    assert torch.allclose(theirs.sigmas[: steps + 1], ours.sigmas(steps), rtol=1e-5, atol=1e-6)
