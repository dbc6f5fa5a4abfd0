"""Eyes: a frame's code, a few numbers that say where things are.

Learned by reconstruction alone (`training.train_eyes`), and fixed before anything else is trained:
a memory that learns to see by itself stays centimetres off, these place an object to millimetres.
"""

from __future__ import annotations

import dataclasses

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from world4rl_gym.arguments import require_integers
from world4rl_gym.pixels import to_float

_SHARPNESS = 3.0
"""Factor on the logits of the spatial softmax: begins with peaks, not with averages."""


@dataclasses.dataclass(frozen=True)
class EyesConfig:
    """Shape of `Eyes`.

    Attributes:
        tasks: Number of tasks, each with eyes of its own.
        frame_size: Height and width of a frame in pixels, a multiple of 8.
        code_size: Numbers in a code K.
        width: Channels; the spatial softmax has as many maps.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    tasks: int = 1
    frame_size: int = 64
    code_size: int = 24
    width: int = 32

    def __post_init__(self) -> None:
        require_integers(self, tasks=(1, 256), frame_size=(16, 512), code_size=(1, 256))
        require_integers(self, width=(4, 256))
        if self.frame_size % 8:
            raise ValueError(f"frame_size: expected a multiple of 8, got {self.frame_size}")


class TaskEyes(nn.Module):
    """The eyes of one task.

    They find, for each of `width` maps, where it fires (spatial softmax: Finn et al., Deep Spatial
    Autoencoders, arXiv 1509.06113), so the code speaks of places.
    """

    def __init__(self, config: EyesConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.encoder = nn.Sequential(
            nn.Conv2d(5, width, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(width, width * 3 // 2, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width * 3 // 2, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 1),
        )
        # Without them training starts on a plateau: at first a map's mean place hardly depends on
        # the frame, and small things, such as a ball of three pixels, are never found.
        self.head = nn.Sequential(
            _Standardise(2 * width),
            nn.Linear(2 * width, 64),
            nn.SiLU(),
            nn.Linear(64, config.code_size),
            _Standardise(config.code_size),
        )
        self.float()  # whatever torch's default dtype is

    def encode(self, frames: Tensor) -> Tensor:
        """`(B, 3, H, W)` uint8 -> the codes `(B, K)` float32, of mean 0 and deviation 1 over the
        frames of training."""
        pixels = to_float(frames)
        height, width = pixels.shape[-2:]
        maps = self.encoder(torch.cat([pixels, _grid(height, width, pixels)], dim=1))
        weights = (maps.flatten(2) * _SHARPNESS).softmax(dim=2)
        places = _grid(maps.shape[-2], maps.shape[-1], maps).flatten(2)
        return self.head(torch.einsum("bmn,bcn->bcm", weights, places).flatten(1))


class Eyes(ModelMixin, ConfigMixin):
    """The eyes of all tasks of a world model."""

    @register_to_config
    def __init__(
        self, tasks: int = 1, frame_size: int = 64, code_size: int = 24, width: int = 32
    ) -> None:
        super().__init__()
        config = EyesConfig(tasks, frame_size, code_size, width)
        self.of_task = nn.ModuleList([TaskEyes(config) for _ in range(tasks)])

    def task(self, index: int) -> TaskEyes:
        """The eyes of a task."""
        eyes = self.of_task[index]
        assert isinstance(eyes, TaskEyes)
        return eyes


class _Standardise(nn.Module):
    """Mean 0 and deviation 1 of each feature: of the batch in training, then of a running mean."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, training=self.training, momentum=0.05
        )


def _grid(height: int, width: int, like: Tensor) -> Tensor:
    """The pixels' x and y in [-1, 1]: `(B, 2, H, W)`."""
    y = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype)
    x = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype)
    grid = torch.stack([x.expand(height, width), y.unsqueeze(1).expand(height, width)])
    return grid.expand(len(like), -1, -1, -1)
