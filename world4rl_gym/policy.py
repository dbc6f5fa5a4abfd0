"""Policies: what acts in imagination and, as it is, on a robot.

A policy is a folder, or a Hub repository, of two files. It acts without any RL library;
`training` clones, refines and distils policies.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from world4rl_gym.arguments import check_name, composed, require_integers
from world4rl_gym.components import CONFIG_FILE, WEIGHTS_FILE, load_component, save_component
from world4rl_gym.features import feature_size
from world4rl_gym.hub import find_repository, upload
from world4rl_gym.pixels import channels_first, to_float
from world4rl_gym.reading import StrictFolder, WorldModelError
from world4rl_gym.world_model import WorldModel

POLICY_FILES = (CONFIG_FILE, WEIGHTS_FILE)
DEVIATION = 0.25
"""Of a new policy's actions: small, for it begins as a clone."""
MAPS = 32
"""In each of which a policy on frames finds one place."""


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """Shape of `Policy`.

    Attributes:
        task: The task's name.
        obs_type: What it sees: "features", "pixels" or "pixels_agent_pos".
        action_size: Action components A.
        vector_size: Numbers of features, or of the robot's state and command; 0 for "pixels".
        frame_size: Height and width of its frames; 0 for "features".
        width: Units of both hidden layers.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    task: str = "task"
    obs_type: str = "features"
    action_size: int = 4
    vector_size: int = 0
    frame_size: int = 0
    width: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", check_name("task", self.task))
        if self.obs_type not in ("features", "pixels", "pixels_agent_pos"):
            raise ValueError(
                f"obs_type: expected features, pixels or pixels_agent_pos, got {self.obs_type!r}"
            )
        sees = self.obs_type != "features", self.obs_type != "pixels"
        require_integers(self, action_size=(1, 64), width=(1, 1024))
        require_integers(self, frame_size=(16, 512) if sees[0] else (0, 0))
        require_integers(self, vector_size=(1, 1024) if sees[1] else (0, 0))


class Encoder(nn.Module):
    """What a policy makes of an observation before it decides: `(B, size)`.

    Frames go through three convolutions and a spatial softmax (Finn et al., Deep Spatial
    Autoencoders, arXiv 1509.06113), which tells where in the frame each map fires.
    """

    origin: Tensor
    unit: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.size = config.vector_size
        self.register_buffer("origin", torch.zeros(config.vector_size))
        self.register_buffer("unit", torch.ones(config.vector_size))
        self.maps: nn.Sequential | None = None
        if config.frame_size:
            self.size += 2 * MAPS
            self.maps = nn.Sequential(
                nn.Conv2d(3, 16, 5, stride=2, padding=2),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, MAPS, 3, padding=1),
            )

    def forward(self, frames: Tensor | None, vector: Tensor | None) -> Tensor:
        """Encodes `(B, 3, H, W)` float32 in [-1, 1] and `(B, vector_size)` float32."""
        parts = []
        if self.maps is not None:
            assert frames is not None
            maps = self.maps(frames)
            height, width = maps.shape[2:]
            weight = maps.flatten(2).softmax(dim=2).unflatten(2, (height, width))
            down = torch.linspace(-1, 1, height, dtype=maps.dtype, device=maps.device)
            right = torch.linspace(-1, 1, width, dtype=maps.dtype, device=maps.device)
            parts += [weight.sum(dim=3) @ down, weight.sum(dim=2) @ right]
        if len(self.unit):
            assert vector is not None
            parts.append((vector - self.origin) / self.unit)
        return torch.cat(parts, dim=1)


class Policy(ModelMixin, ConfigMixin):
    """The mean action of a policy, and the deviation with which it explores.

    Args:
        task: As `PolicyConfig`, like all arguments.
        obs_type: As above.
        action_size: As above.
        vector_size: As above.
        frame_size: As above.
        width: As above.
    """

    @register_to_config
    def __init__(
        self,
        task: str = "task",
        obs_type: str = "features",
        action_size: int = 4,
        vector_size: int = 0,
        frame_size: int = 0,
        width: int = 256,
    ) -> None:
        super().__init__()
        config = PolicyConfig(task, obs_type, action_size, vector_size, frame_size, width)
        self.encoder = Encoder(config)
        self.hidden = nn.Sequential(
            nn.Linear(self.encoder.size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.action = nn.Linear(width, action_size)
        for layer in (self.hidden[0], self.hidden[2], self.action):
            assert isinstance(layer, nn.Linear)
            nn.init.orthogonal_(layer.weight, 0.01 if layer is self.action else 2**0.5)
            nn.init.zeros_(layer.bias)
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(DEVIATION)))
        self.float()  # whatever torch's default dtype is
        self.name = task
        """What recordings call it; its folder's name, where it has one."""

    @property
    def shape(self) -> PolicyConfig:
        """What it was built from."""
        return PolicyConfig(**{k: v for k, v in self.config.items() if not k.startswith("_")})

    @property
    def task(self) -> str:
        """The task that it does."""
        return self.shape.task

    @property
    def obs_type(self) -> str:
        """What it sees."""
        return str(self.config.obs_type)

    def forward(self, frames: Tensor | None, vector: Tensor | None) -> Tensor:
        """The mean action, `(B, A)`, not clipped.

        Args:
            frames: `(B, 3, H, W)` uint8; None for "features".
            vector: Features, or the robot's state and command, `(B, vector_size)` float32; None for
                "pixels".
        """
        seen = None if frames is None else to_float(frames)
        return self.action(self.hidden(self.encoder(seen, vector)))

    @torch.no_grad()
    def act(self, observation: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the mean actions, clipped.

        Args:
            observation: A batch of observations of an env with the policy's `obs_type`: `(B, F)`
                features, `(B, H, W, 3)` uint8 frames, or a dict of `pixels` and `agent_pos`.

        Returns:
            `(B, A)` float32 in [-1, 1].
        """
        return self(*tensors_of(observation, self.obs_type)).clamp(-1, 1).numpy()

    def check_fits(self, world_model: WorldModel, task: str | None = None) -> None:
        """Raises WorldModelError, naming the field, unless it can act in the world model."""
        own, expected = self.shape, policy_config(world_model, self.task, self.obs_type)
        for field in ("action_size", "vector_size", "frame_size"):
            if getattr(own, field) != getattr(expected, field):
                raise WorldModelError(
                    f"policy: {field}: the world model has {getattr(expected, field)}, the policy "
                    f"{getattr(own, field)}"
                )
        if task is not None and composed(task) != own.task:
            raise WorldModelError(f"policy: task: expected {task!r}, got one of {own.task!r}")

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:  # type: ignore[override]
        """Writes the policy's folder, whole or not at all.

        Raises:
            WorldModelError: It cannot be written, or a weight is not finite.
        """
        save_component(self, Path(folder))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Policy:
        """Loads a policy on the CPU; every file is checked before it is used, no code is run.

        Args:
            source: A folder, or `owner/name` on the Hugging Face Hub.
            revision: Branch, tag or commit on the Hub.
            local_files_only: Use the Hub's cache alone, without any network call.

        Raises:
            WorldModelError: It cannot be loaded; the message names the file and the field.
        """
        folder = find_repository("policy", source, revision, local_files_only, POLICY_FILES)
        policy = load_component(StrictFolder(folder), "", cls, PolicyConfig)
        policy.name = folder.resolve().name if Path(source).is_dir() else str(source)
        return policy

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, revision: str | None = None, private: bool = False
    ) -> str:
        """Uploads the policy to the Hugging Face Hub as one commit and returns its hash.

        Args:
            repo_id: `owner/name`; the repository is made where it is missing.
            revision: Branch; None is the main branch.
            private: Whether a new repository is private.

        Raises:
            WorldModelError: The Hub refuses or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as parent:
            self.save_pretrained(Path(parent) / "policy")
            return upload(
                Path(parent) / "policy", POLICY_FILES, repo_id, revision=revision, private=private
            )


def policy_config(world_model: WorldModel, task: str, obs_type: str = "features") -> PolicyConfig:
    """The shape of a policy that acts in a world model's task."""
    agent_size = world_model.state_size + world_model.command_size
    sizes = {"features": feature_size(world_model), "pixels_agent_pos": agent_size}
    return PolicyConfig(
        task,
        obs_type,
        world_model.action_size,
        sizes.get(obs_type, 0),
        0 if obs_type == "features" else world_model.frame_size,
    )


def make_policy(config: PolicyConfig, seed: int = 0) -> Policy:
    """Builds an untrained policy; torch's global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Policy(**dataclasses.asdict(config))


def tensors_of(observation: Any, obs_type: str) -> tuple[Tensor | None, Tensor | None]:
    """An env's batch of observations as `Policy.forward` takes them: frames and vector."""
    if obs_type == "features":
        return None, torch.as_tensor(observation, dtype=torch.float32)
    if obs_type == "pixels":
        return channels_first(torch.as_tensor(observation)), None
    frames = channels_first(torch.as_tensor(observation["pixels"]))
    return frames, torch.as_tensor(observation["agent_pos"], dtype=torch.float32)
