"""The network of a policy: an encoder of frames, and ensembles of it in one module."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from world4rl_gym.reading import shown

MOST_MEMBERS = 8
"""In an ensemble."""

_MOST_WEIGHTS = 10_000_000
"""In the encoder's last layer, which is by far its largest."""


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """What a policy is built from; saved beside its weights.

    Attributes:
        task: The task that it was cloned for.
        frame_size: Height and width of its frames in pixels, a multiple of 16.
        action_size: Number of action components.
        features: Width of the encoder's output.
        hidden: Width of the actor's and of the critic's hidden layer.
        members: Networks of that size side by side, whose mean actions are averaged.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    task: str
    frame_size: int = 64
    action_size: int = 4
    features: int = 128
    hidden: int = 128
    members: int = 1

    def __post_init__(self) -> None:
        task = self.task
        if not isinstance(task, str) or not task.isprintable() or not 1 <= len(task) <= 100:
            raise ValueError(f"task: expected a name of 1 to 100 characters, got {shown(task)}")
        bounds = {
            "frame_size": (16, 512),
            "action_size": (1, 64),
            "features": (1, 1024),
            "hidden": (1, 1024),
            "members": (1, MOST_MEMBERS),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(
                    f"{name}: expected an integer in [{low}, {high}], got {shown(value)}"
                )
        if self.frame_size % 16:
            raise ValueError(f"frame_size: expected a multiple of 16, got {self.frame_size}")
        if 64 * (self.frame_size // 16) ** 2 * self.features * self.members > _MOST_WEIGHTS:
            raise ValueError(
                f"features: {self.features} are too many for frames of {self.frame_size} pixels"
            )


class MemberLinear(nn.Linear):
    """A linear layer for each member: `(B, M * I)` -> `(B, M * O)`; one member's is `nn.Linear`.

    Each member's weights are rows of their own, so that members' tensors stand below each other.
    """

    def __init__(self, members: int, in_features: int, out_features: int) -> None:
        super().__init__(in_features, members * out_features)
        self.members = members

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.members == 1:
            return super().forward(inputs)
        apart = inputs.unflatten(1, (self.members, -1))
        weight = self.weight.unflatten(0, (self.members, -1))
        return torch.einsum("bmi,moi->bmo", apart, weight).flatten(1) + self.bias


class FrameEncoder(BaseFeaturesExtractor):
    """Four strided convolutions and a linear layer: `(B, 3, H, W)` float in [0, 1] -> `(B, F)`.

    Of several members, which share nothing, the outputs stand one after the other.
    """

    def __init__(
        self, observation_space: gym.spaces.Box, features_dim: int = 128, members: int = 1
    ) -> None:
        width = members * features_dim
        super().__init__(observation_space, width)
        self.members = members
        side = observation_space.shape[1] // 16
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32 * members, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32 * members, 64 * members, 4, stride=2, padding=1, groups=members),
            nn.ReLU(),
            nn.Conv2d(64 * members, 64 * members, 3, stride=2, padding=1, groups=members),
            nn.ReLU(),
            nn.Conv2d(64 * members, 64 * members, 3, stride=2, padding=1, groups=members),
            nn.ReLU(),
            nn.Flatten(),
            MemberLinear(members, 64 * side * side, features_dim),
            nn.LayerNorm(width) if members == 1 else nn.GroupNorm(members, width),
            nn.Tanh(),
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            features = self.layers(observations - 0.5)
        return features.float()
