"""The networks and the world model made of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ACTIONS, LENGTH, SIZE, make_tiny_world_model

from world4rl_gym.actions import two_hot
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.pixels import channels_first, channels_last, to_float, to_uint8
from world4rl_gym.reward import RewardHead, RewardHeadConfig
from world4rl_gym.scheduler import EulerScheduler
from world4rl_gym.world_model import WorldModel, WorldModelError


def test_importing_the_package_imports_no_torch() -> None:
    script = (
        "import sys, world4rl_gym, gymnasium; "
        "assert 'World4RL-Imagined-v0' in gymnasium.registry; "
        "print([m for m in ('torch', 'diffusers', 'stable_baselines3') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr


def test_pixels_make_the_round_trip_exactly() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert float(to_float(levels).min()) == -1.0
    assert float(to_float(levels).max()) == 1.0
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]
    frames = torch.randint(0, 256, (2, 5, 4, 6, 3), dtype=torch.uint8)
    assert torch.equal(channels_last(channels_first(frames)), frames)


def test_two_hot_keeps_the_exact_value() -> None:
    actions = torch.linspace(-1, 1, 401)[:, None]
    code = two_hot(actions, 21)
    assert code.shape == (401, 1, 21)
    assert torch.allclose(code.sum(-1), torch.ones(401, 1))
    assert int((code > 0).sum(-1).max()) <= 2
    assert torch.allclose((code * torch.linspace(-1, 1, 21)).sum(-1), actions, atol=1e-6)
    assert torch.equal(two_hot(torch.tensor([[3.0]]), 5), two_hot(torch.tensor([[1.0]]), 5))


def test_two_hot_follows_the_papers_weights() -> None:
    bins = torch.linspace(-1, 1, 21)
    a, k = 0.137, 11
    code = two_hot(torch.tensor([[a]]), 21)[0, 0]
    assert code[k] == pytest.approx(float((bins[k + 1] - a) / (bins[k + 1] - bins[k])), abs=1e-5)
    assert code[k + 1] == pytest.approx(1 - float(code[k]), abs=1e-5)


def test_preconditioning_is_karras() -> None:
    denoiser = Denoiser(DenoiserConfig())
    sigma = torch.tensor([0.002, 0.5, 5.0])
    c_skip, c_out, c_in, c_noise = (c.flatten() for c in denoiser._preconditioning(sigma))
    assert torch.allclose(c_skip, 0.25 / (sigma**2 + 0.25))
    assert torch.allclose(c_out, sigma * 0.5 / (sigma**2 + 0.25).sqrt())
    assert torch.allclose(c_in, 1 / (sigma**2 + 0.25).sqrt())
    assert torch.allclose(c_noise, sigma.log() / 4)


def test_an_untrained_denoiser_predicts_that_nothing_moves() -> None:
    model = Denoiser(DenoiserConfig(frame_size=16, channels=(8, 16), embedding_size=16))
    context = torch.rand(2, 4, 3, 16, 16) * 2 - 1
    anchor = torch.rand(2, 3, 16, 16) * 2 - 1
    noise, sigma = torch.randn(2, 3, 16, 16) * 20, torch.full((2,), 20.0)
    residual, log_error = model(noise, sigma, anchor, context, torch.rand(2, 4, 4))
    assert log_error.shape == (2, 4, 4)
    assert float(residual.detach().abs().max()) < 0.1
    frame = model.to_frame(torch.zeros_like(residual), context[:, -1])
    assert torch.equal(frame, context[:, -1])
    target = torch.rand(2, 3, 16, 16) * 2 - 1
    back = model.to_frame(model.to_residual(target, context[:, -1]), context[:, -1])
    assert torch.allclose(back, target, atol=1e-6)


def test_a_flow_carries_the_last_frame_along_sharp() -> None:
    model = Denoiser(DenoiserConfig(frame_size=16, channels=(8, 16), embedding_size=16))
    right = 12 * model.config.patch_size**2  # the first of the flow's channels
    with torch.no_grad():
        model.unet.head.bias[right : right + model.config.patch_size**2] = 2.0
    context = torch.rand(1, 4, 3, 16, 16) * 2 - 1
    noise, sigma = torch.randn(1, 3, 16, 16) * 1e4, torch.full((1,), 1e4)
    denoised = model(noise, sigma, context[:, 0], context, torch.zeros(1, 4, 4))
    frame = model.to_frame(denoised.residual, context[:, -1])
    assert torch.allclose(frame[..., :-2], context[:, -1, :, :, 2:], atol=1e-2)
    assert not torch.allclose(frame, context[:, -1], atol=0.5)


def test_the_denoiser_heeds_its_actions_and_its_context(tiny_world_model: WorldModel) -> None:
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (1, LENGTH, 3, SIZE, SIZE), dtype=torch.uint8)
    anchor, actions = frames[:, 0], torch.zeros(1, LENGTH, ACTIONS)
    noise = torch.randn(1, 3, SIZE, SIZE)

    def predict(*inputs: torch.Tensor) -> torch.Tensor:
        return tiny_world_model.predict(*inputs).frames

    base, uncertainty = tiny_world_model.predict(anchor, frames, actions, noise)
    assert base.shape == (1, 3, SIZE, SIZE)
    assert base.dtype == torch.uint8
    assert uncertainty.shape == (1,)
    assert float(uncertainty) > 0
    assert torch.equal(base, predict(anchor, frames, actions, noise))
    for index in range(LENGTH):
        moved = actions.clone()
        moved[0, index, 1] = 1.0
        assert not torch.equal(base, predict(anchor, frames, moved, noise))
    assert not torch.equal(base, predict(anchor, 255 - frames, actions, noise))
    assert not torch.equal(base, predict(255 - anchor, frames, actions, noise))
    assert not torch.equal(base, predict(anchor, frames, actions, -noise))


def test_a_denoiser_learns_how_far_off_it_will_be() -> None:
    torch.manual_seed(0)
    config = DenoiserConfig(frame_size=16, channels=(8, 16), embedding_size=16, residual_scale=0.5)
    model = Denoiser(config)
    optimizer = torch.optim.Adam(model.unet.error_head.parameters(), lr=0.03)
    still = torch.zeros(8, 3, 16, 16)
    context = still[:, None].expand(-1, 4, -1, -1, -1)
    sigma, actions = torch.full((8,), 40.0), torch.zeros(8, 4, 4)
    for _ in range(300):  # what follows is white noise of 20 grey levels: nobody can foretell it
        target = torch.randn_like(still) * 20 / 127.5
        loss, _ = model.loss(torch.randn_like(still), sigma, target, still, context, actions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _, log_error = model(torch.randn_like(still) * 40, sigma, still, context, actions)
    assert model.expected_error(log_error, sigma).mean().item() == pytest.approx(20, rel=0.1)


def test_karras_levels() -> None:
    sigmas = EulerScheduler(sigma_max=5.0).sigmas(3)
    middle = ((5 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    assert sigmas.tolist() == pytest.approx([5.0, middle, 0.002, 0.0], rel=1e-5)
    assert EulerScheduler().sigmas(1).tolist() == [80.0, 0.0]


def test_euler_reaches_a_point_mass_in_one_step() -> None:
    target = torch.rand(2, 3, 4, 4)
    for steps in (1, 2, 5):
        sample = EulerScheduler().sample(lambda x, s: target, torch.randn(2, 3, 4, 4), steps)
        assert torch.allclose(sample, target, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "values", "field"),
    [
        (DenoiserConfig, {"frame_size": 60}, "frame_size"),
        (DenoiserConfig, {"channels": (7,)}, "channels"),
        (DenoiserConfig, {"channels": ()}, "channels"),
        (DenoiserConfig, {"action_bins": 1}, "action_bins"),
        (DenoiserConfig, {"residual_scale": 0.0}, "residual_scale"),
        (RewardHeadConfig, {"frame_size": 40}, "frame_size"),
        (RewardHeadConfig, {"width": 12}, "width"),
        (EulerScheduler, {"sigma_max": 0.001}, "sigma_max"),
    ],
)
def test_bad_configurations_name_the_field(config, values, field) -> None:
    with pytest.raises(ValueError, match=field):
        config(**values)


def test_parts_that_do_not_fit_are_refused() -> None:
    model = make_tiny_world_model()
    with pytest.raises(WorldModelError, match="frame_size"):
        WorldModel(
            model.denoiser,
            model.scheduler,
            RewardHead(RewardHeadConfig(frame_size=32, width=8)),
            model.initial_frames,
            model.config,
        )


def test_success_probability_is_one_number_a_frame(tiny_world_model: WorldModel) -> None:
    frames = torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8)
    probability = tiny_world_model.success_probability(frames)
    assert probability.shape == (5,)
    assert np.all((0 <= probability.numpy()) & (probability.numpy() <= 1))
