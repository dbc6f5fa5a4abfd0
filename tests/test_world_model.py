"""The networks and the world model made of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ACTIONS, CODES, COMMANDS, SIZE, STATES, make_tiny_world_model

from world4rl_gym.denoiser import Denoiser, DenoiserConfig, GroupNorm
from world4rl_gym.eyes import Eyes, EyesConfig
from world4rl_gym.memory import MemoryConfig, TaskMemory
from world4rl_gym.pixels import channels_first, channels_last, to_float, to_uint8
from world4rl_gym.scheduler import SchedulerConfig
from world4rl_gym.world_model import WorldModel, WorldModelError, faster_dtype


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


def test_codes_are_standardised_over_the_batches_of_training() -> None:
    torch.manual_seed(0)
    eyes = Eyes(frame_size=16, code_size=5, width=4).task(0).train()
    frames = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    codes = eyes.encode(frames)
    assert torch.allclose(codes.mean(dim=0), torch.zeros(5), atol=1e-4)
    assert torch.allclose(codes.std(dim=0, correction=0), torch.ones(5), atol=3e-2)
    for _ in range(500):
        eyes.encode(frames)
    assert torch.allclose(eyes.eval().encode(frames), codes, atol=0.1)


def test_a_code_speaks_of_its_frame_alone(tiny_world_model: WorldModel) -> None:
    frames = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    ids = np.array([0, 1, 0, 1])
    codes = tiny_world_model.encode(frames, ids)
    assert codes.shape == (4, CODES) and codes.dtype == torch.float32
    assert torch.allclose(tiny_world_model.encode(frames[2:3], ids[2:3]), codes[2:3], atol=1e-6)
    assert not torch.allclose(codes[0], codes[2])
    own = [tiny_world_model.task_eyes(task).encode(frames) for task in ("push", "pull")]
    assert torch.allclose(own[0][::2], codes[::2], atol=1e-6)
    assert torch.allclose(own[1][1::2], codes[1::2], atol=1e-6)
    assert not torch.allclose(own[0], own[1], atol=1e-2)


def begin(model: WorldModel, rows: int = 2) -> tuple[TaskMemory, tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    sizes = (CODES, STATES, COMMANDS)
    return model.task_memory("push"), tuple(
        torch.randn(rows, size, generator=generator) for size in sizes
    )


def test_the_memory_heeds_all_that_it_is_given(tiny_world_model: WorldModel) -> None:
    task, (code, state, command) = begin(tiny_world_model)
    action = torch.zeros(2, ACTIONS)

    def predicted(*inputs: torch.Tensor, action: torch.Tensor = action) -> torch.Tensor:
        return task.step(task.begin(*inputs), action).logit

    base = predicted(code, state, command)
    assert base.shape == (2, 2)
    assert torch.equal(base, predicted(code, state, command))
    assert not torch.equal(base, predicted(code + 1, state, command))
    assert not torch.equal(base, predicted(code, state + 1, command))
    assert not torch.equal(base, predicted(code, state, command + 1))
    for index in range(ACTIONS):
        moved = action.clone()
        moved[:, index] = 1.0
        assert not torch.equal(base, predicted(code, state, command, action=moved))


def test_the_memorys_members_are_apart(tiny_world_model: WorldModel) -> None:
    task, inputs = begin(tiny_world_model)
    memory = task.step(task.begin(*inputs), torch.zeros(2, ACTIONS))
    assert not torch.allclose(memory.logit[:, 0], memory.logit[:, 1])
    mean = memory.logit.sigmoid().mean(dim=1)
    assert torch.allclose(memory.success_probability, mean)


def test_a_shift_of_the_logits_is_what_calibrates() -> None:
    task, inputs = begin(make_tiny_world_model())
    before = task.step(task.begin(*inputs), torch.zeros(2, ACTIONS)).logit
    task.logit_shift.fill_(1.5)
    after = task.step(task.begin(*inputs), torch.zeros(2, ACTIONS)).logit
    assert torch.allclose(after, before - 1.5)


def test_commands_are_clipped_to_their_bounds() -> None:
    task = TaskMemory(MemoryConfig(members=1, code_size=2, width=8))
    task.command_gain.fill_(0.5)
    task.command_low.fill_(-0.2)
    task.command_high.fill_(0.3)
    command = torch.zeros(1, 3)
    moved = task.next_command(command, torch.tensor([[1.0, -1.0, 0.2, 0.0]]))
    assert torch.allclose(moved, torch.tensor([[0.3, -0.2, 0.1]]))


def draw(model: WorldModel, **changes: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "anchor": torch.randint(0, 256, (1, 3, SIZE, SIZE), generator=generator).byte(),
        "first_code": torch.randn(1, CODES, generator=generator),
        "code": torch.randn(1, CODES, generator=generator),
        "state": torch.randn(1, STATES, generator=generator),
        "noise": torch.randn(1, 3, SIZE, SIZE, generator=generator),
    }
    return model.draw(**{**inputs, **changes})


def test_the_denoiser_heeds_all_that_it_is_given(tiny_world_model: WorldModel) -> None:
    base = draw(tiny_world_model)
    assert base.shape == (1, 3, SIZE, SIZE) and base.dtype == torch.uint8
    assert torch.equal(base, draw(tiny_world_model))
    for changes in (
        {"anchor": torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)},
        {"first_code": torch.ones(1, CODES)},
        {"code": torch.ones(1, CODES)},
        {"state": torch.ones(1, STATES)},
        {"noise": torch.ones(1, 3, SIZE, SIZE)},
    ):
        assert not torch.equal(base, draw(tiny_world_model, **changes))


def test_frames_are_drawn_in_the_dtype_that_is_set() -> None:
    model = make_tiny_world_model()
    frames = {}
    for dtype in (torch.float32, torch.bfloat16, None):
        model.draw_dtype = dtype
        frames[dtype] = draw(model).int()
    apart = (frames[torch.float32] - frames[torch.bfloat16]).abs()
    assert 0 < int(apart.max()) <= 8
    assert torch.equal(frames[None], frames[faster_dtype(model.device)])


def test_another_dtype_is_refused() -> None:
    model = make_tiny_world_model()
    model.draw_dtype = torch.float16
    with pytest.raises(ValueError, match=r"draw_dtype: expected .* got torch\.float16"):
        draw(model)


def test_rows_drawn_in_parts_are_those_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_world_model()
    model.draw_dtype = torch.float32
    generator = torch.Generator().manual_seed(0)
    many = {
        "anchor": torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator),
        "first_code": torch.randn(5, CODES, generator=generator),
        "code": torch.randn(5, CODES, generator=generator),
        "state": torch.randn(5, STATES, generator=generator),
        "noise": torch.randn(5, 3, SIZE, SIZE, generator=generator),
    }
    parts = []
    condition = model.denoiser.condition
    monkeypatch.setattr("world4rl_gym.world_model.DRAWN_AT_ONCE", 2)
    monkeypatch.setattr(
        model.denoiser, "condition", lambda *rows: parts.append(len(rows[0])) or condition(*rows)
    )
    drawn = draw(model, **many)
    assert parts == [2, 2, 1]
    for row in range(5):
        alone = draw(model, **{name: rows[row : row + 1] for name, rows in many.items()})
        assert int((drawn[row].int() - alone[0].int()).abs().max()) <= 1


def test_norms_of_bfloat16_are_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    norm = GroupNorm(2, 8)
    maps = torch.randn(3, 8, 4, 4, generator=generator) + 2
    for dtype in (torch.float32, torch.bfloat16):
        own = norm(maps.to(dtype))
        usual = torch.nn.functional.group_norm(
            maps.to(dtype), 2, norm.weight.to(dtype), norm.bias.to(dtype)
        )
        assert own.dtype == dtype
        assert torch.allclose(own.float(), usual.float(), atol=1e-5 if dtype.itemsize > 2 else 0.05)
    norm.to(torch.bfloat16)
    assert norm(maps.to(torch.bfloat16)).dtype == torch.bfloat16


def test_an_untrained_denoiser_draws_the_first_frame() -> None:
    """At the highest noise, where drawing begins, it says that nothing has changed."""
    model = make_tiny_world_model()
    model.denoiser = Denoiser(frame_size=SIZE, code_size=CODES, state_size=STATES, width=8)
    anchor = torch.randint(0, 256, (1, 3, SIZE, SIZE), dtype=torch.uint8)
    drawn = model.draw(
        anchor,
        torch.zeros(1, CODES),
        torch.zeros(1, CODES),
        torch.zeros(1, STATES),
        torch.randn(1, 3, SIZE, SIZE),
        num_inference_steps=1,
    )
    assert int((drawn.int() - anchor.int()).abs().max()) <= 6


@pytest.mark.parametrize(
    ("config", "values", "field"),
    [
        (DenoiserConfig, {"frame_size": 60}, "frame_size"),
        (DenoiserConfig, {"width": 7}, "width"),
        (DenoiserConfig, {"denoise_blocks": 0}, "denoise_blocks"),
        (DenoiserConfig, {"residual_scale": 0.0}, "residual_scale"),
        (EyesConfig, {"frame_size": 20}, "frame_size"),
        (EyesConfig, {"code_size": 0}, "code_size"),
        (MemoryConfig, {"members": 0}, "members"),
        (MemoryConfig, {"state_size": 2}, "command_size"),
        (SchedulerConfig, {"sigma_max": 0.001}, "sigma_max"),
    ],
)
def test_bad_configurations_name_the_field(config, values, field) -> None:
    with pytest.raises(ValueError, match=field):
        config(**values)


@pytest.mark.parametrize(
    ("part", "other", "field"),
    [
        ("eyes", Eyes(tasks=1, frame_size=SIZE, code_size=CODES, width=4), "eyes' tasks"),
        ("eyes", Eyes(tasks=2, frame_size=32, code_size=CODES, width=4), "frame_size"),
        ("eyes", Eyes(tasks=2, frame_size=SIZE, code_size=CODES + 1, width=4), "code_size"),
        ("denoiser", Denoiser(frame_size=SIZE, code_size=CODES, state_size=1, width=8), "state"),
    ],
)
def test_parts_that_do_not_fit_are_refused(part: str, other: torch.nn.Module, field: str) -> None:
    model = make_tiny_world_model()
    parts = {name: getattr(model, name) for name in ("eyes", "memory", "denoiser")}
    with pytest.raises(WorldModelError, match=field):
        WorldModel(
            **{**parts, part: other},
            scheduler=model.scheduler_config,
            initial_frames=model.initial_frames,
            config=model.config,
        )


def test_an_unknown_task_is_refused_with_those_there_are(tiny_world_model: WorldModel) -> None:
    with pytest.raises(ValueError, match="push, pull"):
        tiny_world_model.task_memory("fly")
    with pytest.raises(ValueError, match="push, pull"):
        tiny_world_model.task_memory()


def test_success_probability_is_one_number_a_row(tiny_world_model: WorldModel) -> None:
    _, inputs = begin(tiny_world_model, rows=5)
    ids = np.array([0, 1, 0, 1, 1])
    memory = tiny_world_model.begin(ids, *inputs)
    assert float(memory.success_probability.max()) < 1e-6  # nothing is solved before it begins
    memory = tiny_world_model.advance(ids, memory, torch.zeros(5, ACTIONS))
    assert memory.success_probability.shape == (5,)
    assert bool(((memory.success_probability >= 0) & (memory.success_probability <= 1)).all())
