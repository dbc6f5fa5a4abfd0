"""Real classes at tiny size: 16 x 16 frames, two tasks, a few thousand weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from world4rl_gym.denoiser import Denoiser
from world4rl_gym.eyes import Eyes
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.memory import Memory
from world4rl_gym.policy import make_policy, policy_config
from world4rl_gym.scheduler import SchedulerConfig
from world4rl_gym.world_model import WorldModel, WorldModelConfig

torch.set_num_threads(1)  # `make test` runs several processes

SIZE, ACTIONS, STATES, COMMANDS, CODES = 16, 3, 3, 2, 6
TASKS = ("push", "pull")
NEVER = 0.99999
"""A success threshold that no frame reaches."""


def make_tiny_world_model(
    seed: int = 0,
    success_threshold: float = 0.5,
    frame_size: int = SIZE,
    states: int = STATES,
    commands: int = COMMANDS,
) -> WorldModel:
    """A world model whose random weights move its frames and whose rows succeed now and then."""
    commands = commands if states else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        eyes = Eyes(tasks=len(TASKS), frame_size=frame_size, code_size=CODES, width=4)
        memory = Memory(
            tasks=len(TASKS),
            members=2,
            action_size=ACTIONS,
            state_size=states,
            command_size=commands,
            code_size=CODES,
            width=16,
        )
        denoiser = Denoiser(
            frame_size=frame_size,
            code_size=CODES,
            state_size=states,
            width=8,
            condition_blocks=1,
            residual_scale=0.5,
        )
        for parameter in [*memory.parameters(), *denoiser.parameters()]:
            if not parameter.any():  # zero-initialised outputs would leave every frame as it is
                torch.nn.init.normal_(parameter, std=0.1)
            elif parameter.ndim > 1:
                parameter.data.mul_(2.0)
        for task in memory.of_task:
            task.command_gain += 0.3
    rng = np.random.default_rng(seed)
    starts, later = 6, 4
    count = starts + later
    shape = (count, 3, frame_size, frame_size)
    initial_frames = InitialFrames(
        torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)),
        torch.from_numpy(rng.normal(size=(count, states)).astype(np.float32)),
        torch.from_numpy(rng.normal(size=(count, commands)).astype(np.float32)),
        torch.arange(count) % len(TASKS),
        torch.arange(count) < starts,
        TASKS,
    )
    config = WorldModelConfig(
        tasks=TASKS,
        action_repeat=2,
        max_episode_steps=8,
        success_threshold=success_threshold,
        num_inference_steps=2,
    )
    return WorldModel(eyes, memory, denoiser, SchedulerConfig(), initial_frames, config)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved network or policy, by name."""
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether both have the same names and values."""
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="session")
def tiny_world_model() -> WorldModel:
    """One tiny world model for all tests; nothing may change it."""
    return make_tiny_world_model()


@pytest.fixture(scope="session")
def tiny_folder(tiny_world_model: WorldModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny world model as a saved folder, only to be read."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_world_model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def model_folder(tiny_folder: str, tmp_path: Path) -> Path:
    """A copy of the tiny world model's folder, to do with as one likes."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def cloned(tmp_path: Path) -> Path:
    """Folder of an untrained policy that fits the tiny world model."""
    make_policy(policy_config(make_tiny_world_model(), "push")).save_pretrained(tmp_path / "cloned")
    return tmp_path / "cloned"


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the path of one's own data was walked, only to be read."""
    from own_data import walk

    return walk(tmp_path_factory.mktemp("own"))
