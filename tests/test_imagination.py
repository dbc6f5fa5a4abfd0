"""The batched core used directly, torch in and torch out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import NEVER, make_tiny_world_model
from gymnasium.error import ResetNeeded

from world4rl_gym import Imagination, WorldModel
from world4rl_gym.imagination import ImaginedStep


def begun(world_model: WorldModel, rows: int, **arguments: object) -> Imagination:
    """A core whose row i is seeded i and has been reset."""
    core = Imagination(rows, world_model, **arguments)  # type: ignore[arg-type]
    core.rngs = [np.random.default_rng(row) for row in range(rows)]
    core.reset()
    return core


def test_tensors_in_and_out(tiny_world_model: WorldModel) -> None:
    core = begun(tiny_world_model, 5)
    frames = core.frames
    assert frames.shape == (5, 3, 16, 16) and frames.dtype == torch.uint8
    result = core.step(torch.zeros(5, 3))
    for name, dtype in (
        ("reward", torch.float32),
        ("terminated", torch.bool),
        ("truncated", torch.bool),
        ("success_probability", torch.float32),
        ("uncertainty", torch.float32),
    ):
        tensor = getattr(result, name)
        assert tensor.shape == (5,) and tensor.dtype == dtype and tensor.device == core.device
    assert core.features.shape == (5, 2 * 3 + 2 * 2 + 6 + 2)
    assert core.agent_pos.shape == (5, 5)
    drawn = core.frames
    assert not torch.equal(drawn, frames)
    drawn.zero_()
    assert core.frames.any()


def test_reset_of_a_mask_leaves_the_other_rows(tiny_world_model: WorldModel) -> None:
    core = begun(tiny_world_model, 3, success_threshold=NEVER, max_episode_steps=2)
    core.step(torch.zeros(3, 3))
    assert core.step(torch.zeros(3, 3)).truncated.all()
    before, predicted = core.frames, core.features
    core.reset(torch.tensor([False, True, False]))
    after = core.frames
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert torch.equal(core.features[[0, 2]], predicted[[0, 2]])
    assert not torch.equal(after[1], before[1])
    assert core.step(torch.zeros(3, 3)).truncated.tolist() == [True, False, True]
    unchanged = core.frames
    core.reset(torch.zeros(3, dtype=torch.bool))
    assert torch.equal(core.frames, unchanged)


def test_E12_a_reset_row_holds_nothing_of_the_episode_before(tiny_world_model: WorldModel) -> None:
    core = begun(tiny_world_model, 2)
    fresh = [part.clone() for part in core.memory]
    starts = core.drawn.tolist()
    for _ in range(3):
        core.step(torch.ones(2, 3))
    core.reset(initial_frame=starts)
    assert all(torch.equal(one, other) for one, other in zip(core.memory, fresh, strict=True))


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
    core = begun(tiny_world_model, 2)
    policy = torch.nn.Linear(core.features.shape[1], 3)
    for _ in range(3):
        result = core.step(policy(core.features).tanh())
    assert not result.reward.requires_grad and not core.features.requires_grad
    assert all(parameter.grad is None for parameter in tiny_world_model.parameters())


def test_seeding_rows_repeats_them(tiny_world_model: WorldModel) -> None:
    predicted = []
    for _ in range(2):
        core = begun(tiny_world_model, 3)
        frames = [core.frames]
        for _ in range(3):
            core.step(torch.ones(3, 3))
            frames.append(core.frames)
        predicted.append(torch.stack(frames))
    assert torch.equal(predicted[0], predicted[1])


def test_drawing_changes_nothing_that_happens(tiny_world_model: WorldModel) -> None:
    """What is seen never feeds back: there is nothing for it to drift by."""
    seen, unseen = (begun(tiny_world_model, 3) for _ in range(2))
    for _ in range(4):
        one, other = seen.step(torch.ones(3, 3)), unseen.step(torch.ones(3, 3))
        assert seen.frames.any()
        assert torch.equal(one.success_probability, other.success_probability)
    assert torch.equal(seen.frames, unseen.frames)


def test_more_inference_steps_change_the_frames(tiny_world_model: WorldModel) -> None:
    frames = []
    for steps in (1, 2, 3):
        core = begun(tiny_world_model, 1, num_inference_steps=steps)
        core.step(torch.ones(1, 3))
        frames.append(core.frames)
    assert not torch.equal(frames[0], frames[1]) and not torch.equal(frames[1], frames[2])


def test_rows_of_several_tasks_each_follow_their_own(tiny_world_model: WorldModel) -> None:
    mixed = Imagination(4, tiny_world_model)
    mixed.reset(initial_frame=[0, 1, 2, 3])
    assert mixed.tasks == ["push", "pull", "push", "pull"]
    alone = Imagination(2, tiny_world_model, task="pull")
    alone.reset(initial_frame=[1, 3])
    actions = torch.linspace(-1, 1, 12).view(4, 3)
    for _ in range(3):
        one, other = mixed.step(actions), alone.step(actions[[1, 3]])
    assert torch.allclose(one.success_probability[[1, 3]], other.success_probability, atol=1e-6)
    assert torch.allclose(mixed.features[[1, 3]], alone.features, atol=1e-5)


def test_a_rollout_is_what_stepping_gives(tiny_world_model: WorldModel) -> None:
    actions = torch.rand(3, 5, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    core = begun(tiny_world_model, 3)
    predicted = core.rollout(actions, initial_frame=[0, 1, 2], draw=True)
    assert predicted.frames is not None and predicted.frames.shape == (3, 5, 3, 16, 16)
    assert predicted.state.shape == (3, 5, 3) and predicted.code.shape == (3, 5, 6)
    stepped = begun(tiny_world_model, 3)
    stepped.reset(initial_frame=[0, 1, 2])
    for t in range(5):
        result = stepped.step(actions[:, t])
        assert torch.equal(result.success_probability, predicted.success_probability[:, t])
    assert torch.equal(stepped.state, predicted.state[:, -1])
    assert core.rollout(actions, initial_frame=[0, 1, 2]).frames is None


def test_the_command_follows_its_rule(tiny_world_model: WorldModel) -> None:
    core = begun(tiny_world_model, 2)
    before = core.memory.command
    core.step(torch.tensor([[0.5, -2.0, 1.0], [0.0, 0.25, 0.0]]))
    moved = torch.tensor([[0.15, -0.3], [0.0, 0.075]])  # gain 0.3, actions clipped to [-1, 1]
    assert torch.allclose(core.memory.command, before + moved, atol=1e-6)


def test_uncertainty_costs_what_was_asked(tiny_world_model: WorldModel) -> None:
    plain, charged = (
        begun(tiny_world_model, 4, uncertainty_penalty=penalty) for penalty in (0.0, 0.5)
    )
    for _ in range(5):
        one, other = plain.step(np.zeros((4, 3))), charged.step(np.zeros((4, 3)))
        assert torch.equal(one.terminated, other.terminated)
        assert (one.uncertainty > 0).all()
        assert torch.allclose(other.reward, one.reward - 0.5 * one.uncertainty)


def test_uncertainty_is_how_far_members_disagree_on_the_outcome(
    tiny_world_model: WorldModel,
) -> None:
    core, rng = begun(tiny_world_model, 4), np.random.default_rng(0)
    best, before = torch.zeros(4, 2, dtype=torch.float64), core.uncertainty
    assert not before.any()
    fell = False
    for _ in range(8):
        step = core.step(rng.uniform(-1, 1, (4, 3)))
        best = torch.maximum(best, core.memory.logit.double().sigmoid())
        apart = (best[:, 0] - best[:, 1]).abs() / 2
        assert torch.allclose(step.uncertainty.double(), apart, rtol=1e-5)
        assert torch.equal(core.uncertainty, step.uncertainty)
        fell, before = fell or bool((step.uncertainty < before).any()), step.uncertainty
    assert fell  # members that come to agree are certain again
    core.reset(np.array([True, False, False, False]))
    assert core.uncertainty[0] == 0 and torch.equal(core.uncertainty[1:], step.uncertainty[1:])


def test_what_is_too_uncertain_is_truncated_and_not_believed(tiny_world_model: WorldModel) -> None:
    def first_step(**arguments: float) -> ImaginedStep:
        core = begun(tiny_world_model, 8, success_threshold=1e-6, **arguments)
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


def test_a_model_without_robot_state_imagines_all_the_same() -> None:
    model = make_tiny_world_model(states=0)
    core = begun(model, 3)
    first = core.features
    core.step(torch.ones(3, 3))
    assert first.shape == (3, 6 + 2) and core.agent_pos.shape == (3, 0)
    assert not torch.equal(core.features, first)
    assert core.frames.shape == (3, 3, 16, 16)


def test_a_thousand_rows(tiny_world_model: WorldModel) -> None:
    core = Imagination(1000, tiny_world_model)
    core.reset()
    frames = core.frames
    assert set(core.drawn.tolist()) == set(range(6))
    core.step(torch.zeros(1000, 3))
    assert not torch.equal(core.frames, frames)
    assert len({frame.numpy().tobytes() for frame in core.frames}) == 1000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_everything_stays_on_the_gpu(tiny_world_model: WorldModel) -> None:
    core = Imagination(64, tiny_world_model, device="cuda")
    core.reset()
    assert core.frames.is_cuda
    result = core.step(torch.zeros(64, 3, device="cuda"))
    assert core.frames.is_cuda and result.reward.is_cuda and core.features.is_cuda
    assert next(tiny_world_model.parameters()).device.type == "cpu"  # the caller's own stays


def _bright(frames: np.ndarray, tasks: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pays for light; every second row is done."""
    assert frames.dtype == np.uint8 and frames.shape[1:] == (16, 16, 3)
    assert len(tasks) == len(frames)
    return frames.mean(axis=(1, 2, 3)) / 255, np.arange(len(frames)) % 2 == 1


def test_a_reward_of_ones_own_takes_the_place_of_the_memorys() -> None:
    world_model = make_tiny_world_model()
    imagination = Imagination(4, world_model, reward=_bright, uncertainty_penalty=0.5)
    imagination.reset()
    result = imagination.step(np.zeros((4, 3), np.float32))
    light = imagination.frames.float().mean(dim=(1, 2, 3)) / 255
    assert torch.allclose(result.reward, light - 0.5 * result.uncertainty, atol=1e-5)
    assert result.terminated.tolist() == [False, True, False, True]
    imagination.max_uncertainty = 0.0  # nothing is believed
    result = imagination.step(np.zeros((4, 3), np.float32))
    assert result.truncated.all() and not result.terminated.any()
    assert float(result.reward.max()) <= 0


@pytest.mark.parametrize(
    ("reward", "predicted"),
    [
        (7, "expected a function"),
        (lambda frames, tasks: (np.zeros(3), np.zeros(3, bool)), "two arrays"),
        (lambda frames, tasks: (np.zeros(2), np.zeros(2)), "bools"),
        (lambda frames, tasks: (np.full(2, np.nan), np.zeros(2, bool)), "finite"),
    ],
)
def test_a_reward_that_gives_something_else_is_named(reward: Any, predicted: str) -> None:
    with pytest.raises(ValueError, match=f"reward: .*{predicted}"):
        imagination = Imagination(2, make_tiny_world_model(), reward=reward)
        imagination.reset()
        imagination.step(np.zeros((2, 3), np.float32))
