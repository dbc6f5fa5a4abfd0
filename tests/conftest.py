"""Real classes at tiny size: 16 x 16 frames, two tasks, a few thousand weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from training.policy import make_policy, save_policy
from training.policy_network import PolicyConfig
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.reward import RewardHead, RewardHeadConfig
from world4rl_gym.scheduler import EulerScheduler
from world4rl_gym.world_model import WorldModel, WorldModelConfig

torch.set_num_threads(2)

SIZE, LENGTH, ACTIONS = 16, 4, 3
TASKS = ("push", "pull")


def make_tiny_world_model(
    seed: int = 0, success_threshold: float = 0.43, frame_size: int = SIZE, patch_size: int = 4
) -> WorldModel:
    """A world model whose random weights move its frames and whose rows succeed now and then."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = Denoiser(
            DenoiserConfig(
                frame_size=frame_size,
                context_length=LENGTH,
                patch_size=patch_size,
                action_size=ACTIONS,
                action_bins=5,
                channels=(8, 16),
                layers_per_block=1,
                embedding_size=16,
                residual_scale=0.5,
            )
        )
        reward_head = RewardHead(RewardHeadConfig(frame_size=frame_size, width=8))
        for parameter in [*denoiser.parameters(), *reward_head.parameters()]:
            if not parameter.any():  # zero-initialised outputs would leave every frame as it is
                torch.nn.init.normal_(parameter, std=0.1)
            elif parameter.ndim > 1:
                parameter.data.mul_(1.5)
    rng = np.random.default_rng(seed)
    starts, later = 6, 4
    count = starts + later
    shape = (count, LENGTH, 3, frame_size, frame_size)
    frames = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    frames[:starts] = frames[:starts, :1]
    actions = torch.from_numpy(rng.uniform(-1, 1, (count, LENGTH - 1, ACTIONS)).astype(np.float32))
    actions[:starts] = 0
    initial_frames = InitialFrames.from_contexts(
        frames,
        actions,
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
    return WorldModel(denoiser, EulerScheduler(), reward_head, initial_frames, config)


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
    config = PolicyConfig("push", SIZE, ACTIONS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_policy(make_policy(config), config, tmp_path / "cloned")
    return tmp_path / "cloned"
