"""The batched core used directly, torch in and torch out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded

from world4rl_gym import Imagination, WorldModel
from world4rl_gym.imagination import ImaginedStep

NEVER = 0.99999


def test_tensors_in_and_out(tiny_world_model: WorldModel) -> None:
    core = Imagination(5, tiny_world_model)
    frames = core.reset()
    assert frames.shape == (5, 3, 16, 16) and frames.dtype == torch.uint8
    result = core.step(torch.zeros(5, 3))
    assert result.frames.shape == frames.shape and result.frames.dtype == torch.uint8
    for name, dtype in (
        ("reward", torch.float32),
        ("terminated", torch.bool),
        ("truncated", torch.bool),
        ("success_probability", torch.float32),
    ):
        tensor = getattr(result, name)
        assert tensor.shape == (5,) and tensor.dtype == dtype and tensor.device == core.device
    assert torch.equal(core.frames, result.frames)
    result.frames.zero_()
    frames.zero_()
    assert core.frames.any()


def test_reset_of_a_mask_leaves_the_other_rows(tiny_world_model: WorldModel) -> None:
    core = Imagination(3, tiny_world_model, success_threshold=NEVER, max_episode_steps=2)
    core.reset()
    core.step(torch.zeros(3, 3))
    before = core.step(torch.zeros(3, 3))
    assert before.truncated.all()
    after = core.reset(torch.tensor([False, True, False]))
    assert torch.equal(after[[0, 2]], before.frames[[0, 2]])
    assert not torch.equal(after[1], before.frames[1])
    assert core.step(torch.zeros(3, 3)).truncated.tolist() == [True, False, True]
    unchanged = core.frames
    assert torch.equal(core.reset(torch.zeros(3, dtype=torch.bool)), unchanged)


def test_E13_a_bad_mask(tiny_world_model: WorldModel) -> None:
    core = Imagination(3, tiny_world_model)
    with pytest.raises(TypeError, match="expected bool"):
        core.reset(torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=r"\(3,\), got \(2,\)"):
        core.reset(torch.tensor([True, False]))


def test_E15_step_before_reset(tiny_world_model: WorldModel) -> None:
    core = Imagination(2, tiny_world_model)
    with pytest.raises(ResetNeeded):
        core.step(torch.zeros(2, 3))
    core.reset(torch.tensor([True, False]))
    with pytest.raises(ResetNeeded):
        core.step(torch.zeros(2, 3))


def test_a_policys_gradient_does_not_enter_the_imagination(tiny_world_model: WorldModel) -> None:
    core = Imagination(2, tiny_world_model)
    core.reset()
    policy = torch.nn.Linear(3 * 16 * 16, 3)
    for _ in range(3):
        result = core.step(policy(core.frames.flatten(1).float() / 255).tanh())
    assert not result.reward.requires_grad and not core._actions.requires_grad
    assert all(parameter.grad is None for parameter in tiny_world_model.parameters())


def test_seeding_rows_repeats_them(tiny_world_model: WorldModel) -> None:
    told = []
    for _ in range(2):
        core = Imagination(3, tiny_world_model)
        core.rngs = [np.random.default_rng(row) for row in range(3)]
        frames = [core.reset(), *(core.step(torch.ones(3, 3)).frames for _ in range(3))]
        told.append(torch.stack(frames))
    assert torch.equal(told[0], told[1])


def test_more_inference_steps_change_the_frames(tiny_world_model: WorldModel) -> None:
    frames = []
    for steps in (1, 2, 3):
        core = Imagination(1, tiny_world_model, num_inference_steps=steps)
        core.rngs = [np.random.default_rng(0)]
        core.reset()
        frames.append(core.step(torch.ones(1, 3)).frames)
    assert not torch.equal(frames[0], frames[1]) and not torch.equal(frames[1], frames[2])


def test_uncertainty_costs_what_was_asked(tiny_world_model: WorldModel) -> None:
    plain, charged = (
        Imagination(4, tiny_world_model, uncertainty_penalty=penalty) for penalty in (0.0, 0.01)
    )
    for core in (plain, charged):
        core.rngs = [np.random.default_rng(row) for row in range(4)]
        core.reset()
    for _ in range(5):
        one, other = plain.step(np.zeros((4, 3))), charged.step(np.zeros((4, 3)))
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.terminated, other.terminated)
        assert (one.uncertainty > 0).all()
        assert torch.allclose(other.reward, one.reward - 0.01 * one.uncertainty)


def test_what_is_too_uncertain_is_truncated_and_not_believed(tiny_world_model: WorldModel) -> None:
    def first_step(**arguments: float) -> ImaginedStep:
        core = Imagination(8, tiny_world_model, success_threshold=1e-6, **arguments)
        core.rngs = [np.random.default_rng(row) for row in range(8)]
        core.reset()
        return core.step(np.zeros((8, 3)))

    believed = first_step()
    assert believed.terminated.all()
    limit = float(believed.uncertainty.median())
    step = first_step(max_uncertainty=limit)
    doubted = believed.uncertainty > limit
    assert 0 < int(doubted.sum()) < 8
    assert torch.equal(step.truncated, doubted)
    assert torch.equal(step.terminated, ~doubted)
    assert torch.equal(step.reward, (~doubted).float())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_compiled_step_agrees_on_the_gpu(tiny_world_model: WorldModel) -> None:
    plain, compiled = (
        Imagination(4, tiny_world_model, device="cuda", compile=choice) for choice in (False, True)
    )
    for core in (plain, compiled):
        core.rngs = [np.random.default_rng(row) for row in range(4)]
        core.reset()
    for _ in range(10):
        one, other = plain.step(np.zeros((4, 3))), compiled.step(np.zeros((4, 3)))
        assert (one.frames.int() - other.frames.int()).abs().max() <= 1
        assert torch.allclose(one.success_probability, other.success_probability, atol=0.02)


def test_a_thousand_rows(tiny_world_model: WorldModel) -> None:
    core = Imagination(1000, tiny_world_model)
    frames = core.reset()
    assert set(core.drawn.tolist()) == set(range(6))
    result = core.step(torch.zeros(1000, 3))
    assert not torch.equal(result.frames, frames)
    assert len({frame.numpy().tobytes() for frame in result.frames}) == 1000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_everything_stays_on_the_gpu(tiny_world_model: WorldModel) -> None:
    core = Imagination(64, tiny_world_model, device="cuda")
    assert core.reset().is_cuda
    result = core.step(torch.zeros(64, 3, device="cuda"))
    assert result.frames.is_cuda and result.reward.is_cuda
    assert core.reset(result.terminated | result.truncated).is_cuda
    assert next(tiny_world_model.parameters()).device.type == "cpu"  # the caller's own stays
