"""The learned reward: how likely a frame shows the task solved."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world4rl_gym.pixels import to_float


@dataclasses.dataclass(frozen=True)
class RewardHeadConfig:
    """What a `RewardHead` is built from; saved beside its weights.

    Attributes:
        frame_size: Height and width of a frame in pixels, a multiple of 16.
        width: Channels of the first stage, doubled once; a multiple of 8.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    frame_size: int = 64
    width: int = 32

    def __post_init__(self) -> None:
        if type(self.frame_size) is not int or not 16 <= self.frame_size <= 512:
            raise ValueError(
                f"frame_size: expected an integer in [16, 512], got {self.frame_size!r}"
            )
        if self.frame_size % 16:
            raise ValueError(f"frame_size: expected a multiple of 16, got {self.frame_size}")
        if type(self.width) is not int or not 8 <= self.width <= 256 or self.width % 8:
            raise ValueError(f"width: expected a multiple of 8 in [8, 256], got {self.width!r}")


class RewardHead(nn.Module):
    """Classifies frames into solved and unsolved, for all tasks of a world model alike."""

    def __init__(self, config: RewardHeadConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        side = config.frame_size // 16
        self.layers = nn.Sequential(
            nn.Conv2d(12, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(2 * width * side * side, 64),
            nn.SiLU(),
            nn.Linear(64, 1),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """`(B, 3, H, W)` float in [-1, 1] -> `(B,)` float32 logits."""
        patches = F.pixel_unshuffle(frames, 2)
        return self.layers(patches.contiguous(memory_format=torch.channels_last)).squeeze(1).float()

    def success_probability(self, frames: Tensor) -> Tensor:
        """`(B, 3, H, W)` uint8 -> `(B,)` float32 in [0, 1]."""
        return self(to_float(frames)).sigmoid()
