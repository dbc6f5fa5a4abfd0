"""The folder as the diffusers ecosystem sees it: its own loaders open every part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler

from world4rl_gym.denoiser import Denoiser
from world4rl_gym.eyes import Eyes
from world4rl_gym.memory import Memory
from world4rl_gym.world_model import WorldModel

NETWORKS = [("eyes", Eyes), ("memory", Memory), ("denoiser", Denoiser)]


@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_every_network_opens_in_diffusers(
    tiny_folder: str, tiny_world_model: WorldModel, name: str, network: type
) -> None:
    files = {path.name for path in (Path(tiny_folder) / name).iterdir()}
    assert files == {"config.json", "diffusion_pytorch_model.safetensors"}
    record = json.loads((Path(tiny_folder) / name / "config.json").read_text())
    assert record["_class_name"] == network.__name__
    theirs = network.from_pretrained(tiny_folder, subfolder=name, use_safetensors=True)
    ours = getattr(tiny_world_model, name)
    assert dict(theirs.config).items() >= {k: v for k, v in record.items() if k[0] != "_"}.items()
    own = ours.state_dict()
    assert set(theirs.state_dict()) == set(own)
    assert all(torch.equal(value, own[key]) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_what_diffusers_saves_opens_here(
    model_folder: Path, tiny_world_model: WorldModel, name: str, network: type, tmp_path: Path
) -> None:
    """Their configuration file also states their version, which ours does not take."""
    getattr(tiny_world_model, name).save_pretrained(tmp_path / name)
    record = json.loads((tmp_path / name / "config.json").read_text())
    assert record.pop("_diffusers_version")
    assert record == json.loads((model_folder / name / "config.json").read_text())


def test_the_scheduler_opens_in_diffusers(tiny_folder: str, tiny_world_model: WorldModel) -> None:
    theirs = EDMEulerScheduler.from_pretrained(tiny_folder, subfolder="scheduler")
    for name in ("sigma_min", "sigma_max", "sigma_data", "rho"):
        assert getattr(theirs.config, name) == getattr(tiny_world_model.scheduler_config, name)


def test_drawing_is_diffusers_own_loop(tiny_folder: str, tiny_world_model: WorldModel) -> None:
    generator = torch.Generator().manual_seed(0)
    anchor = torch.randint(0, 256, (2, 3, 16, 16), generator=generator).byte()
    code = torch.randn(2, 6, generator=generator)
    state = torch.randn(2, 3, generator=generator)
    noise = torch.randn(2, 3, 16, 16, generator=generator)
    drawn = tiny_world_model.draw(anchor, code, code, state, noise, num_inference_steps=3)
    denoiser = Denoiser.from_pretrained(tiny_folder, subfolder="denoiser").eval()
    scheduler = EDMEulerScheduler.from_pretrained(tiny_folder, subfolder="scheduler")
    scheduler.set_timesteps(3)
    first = anchor / 127.5 - 1
    sample = noise * scheduler.config.sigma_max
    with torch.no_grad():
        condition = denoiser.condition(first, code, code, state)
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(sample, timestep)
            output = denoiser(scaled, timestep, condition)
            sample = scheduler.step(output, timestep, sample).prev_sample
    expected = (first + sample * denoiser.config.residual_scale + 1) * 127.5
    error = (drawn.float() - expected.clamp(0, 255)).abs()
    assert float(error.max()) < 4  # bfloat16, where the machine has it
    assert float(error.mean()) < 0.6


def test_another_scheduler_of_theirs_is_not_taken_for_ours(model_folder: Path) -> None:
    from tampering import load_refused, sign

    DDIMScheduler().save_pretrained(model_folder / "scheduler")
    sign(model_folder)
    load_refused(model_folder, "scheduler_config.json", "_class_name")
