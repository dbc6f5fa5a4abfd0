"""Eyes: a frame's code, a few numbers that say where things are.

Learned by reconstruction alone, and fixed before anything else is trained: a memory that learns to
see by itself stays centimetres off, these place an object to the millimetre.
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
        frame_size: Height and width of a frame in pixels, a multiple of 8.
        code_size: Numbers in a code K.
        state_size: Numbers of the robot's state S, which the decoder is given so that the code need
            not hold the robot; 0 without one.
        width: Channels; the spatial softmax has as many maps.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    frame_size: int = 64
    code_size: int = 24
    state_size: int = 4
    width: int = 32

    def __post_init__(self) -> None:
        require_integers(self, frame_size=(16, 512), code_size=(1, 256), width=(4, 256))
        require_integers(self, state_size=(0, 256))
        if self.frame_size % 8:
            raise ValueError(f"frame_size: expected a multiple of 8, got {self.frame_size}")


class Eyes(ModelMixin, ConfigMixin):
    """An autoencoder of frames whose code is read from a spatial softmax.

    The encoder finds, for each of `width` maps, where it fires (spatial softmax: Finn et al., Deep
    Spatial Autoencoders, arXiv 1509.06113), so the code speaks of places. The decoder draws what
    differs from the task's mean frame out of the code and the robot's state.
    """

    @register_to_config
    def __init__(
        self, frame_size: int = 64, code_size: int = 24, state_size: int = 4, width: int = 32
    ) -> None:
        super().__init__()
        EyesConfig(frame_size, code_size, state_size, width)
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
            nn.Linear(64, code_size),
            _Standardise(code_size),
        )
        side = frame_size // 8
        self.decoder = nn.Sequential(
            nn.Linear(code_size + state_size, 64 * side * side),
            nn.Unflatten(1, (64, side, side)),
            nn.SiLU(),
            nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(64, 48, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(48, 3, 4, stride=2, padding=1),
        )

    def encode(self, frames: Tensor) -> Tensor:
        """`(B, 3, H, W)` uint8 -> the codes `(B, K)` float32, of mean 0 and deviation 1 over the
        frames of training."""
        pixels = to_float(frames)
        height, width = pixels.shape[-2:]
        maps = self.encoder(torch.cat([pixels, _grid(height, width, pixels)], dim=1))
        weights = (maps.flatten(2) * _SHARPNESS).softmax(dim=2)
        places = (
            _grid(maps.shape[-2], maps.shape[-1], maps)[:1].expand(len(maps), -1, -1, -1).flatten(2)
        )
        return self.head(torch.einsum("bmn,bcn->bcm", weights, places).flatten(1))

    def decode(self, code: Tensor, state: Tensor) -> Tensor:
        """Codes `(B, K)` and standardised robot states `(B, S)` -> `(B, 3, H, W)`, what is to be
        added to the task's mean frame in [-1, 1]."""
        return self.decoder(torch.cat([code, state], dim=1))


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
