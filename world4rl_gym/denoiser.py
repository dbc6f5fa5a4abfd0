"""The denoiser: draws the present frame out of the memory, by diffusion.

What is diffused is the frame's difference from the episode's first frame, so that a background
costs nothing and never drifts. Where things are comes from the memory, as codes and robot state;
no drawn frame is ever read again.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from world4rl_gym.arguments import require_integers


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """Shape of `Denoiser`.

    Attributes:
        frame_size: Height and width of a frame in pixels, a multiple of `2 * patch_size`.
        code_size: Numbers in a frame's code K.
        state_size: Numbers of the robot's state S.
        patch_size: Side of the square patches that become channels.
        width: Channels, a multiple of 8.
        condition_blocks: Residual blocks that turn the memory into maps, computed once a frame.
        denoise_blocks: Residual blocks of a denoising step.
        residual_scale: Deviation of frame differences over the scheduler's `sigma_data`.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    frame_size: int = 64
    code_size: int = 24
    state_size: int = 4
    patch_size: int = 4
    width: int = 64
    condition_blocks: int = 2
    denoise_blocks: int = 1
    residual_scale: float = 0.3

    def __post_init__(self) -> None:
        require_integers(self, frame_size=(8, 512), code_size=(1, 256), state_size=(0, 256))
        require_integers(self, patch_size=(1, 16), width=(8, 1024))
        require_integers(self, condition_blocks=(0, 8), denoise_blocks=(1, 8))
        if self.width % 8:
            raise ValueError(f"width: expected a multiple of 8, got {self.width}")
        if self.frame_size % (2 * self.patch_size):
            raise ValueError(
                f"frame_size: expected a multiple of {2 * self.patch_size} (2 patch_size), "
                f"got {self.frame_size}"
            )
        if type(self.residual_scale) not in (int, float) or not 0 < self.residual_scale <= 10:
            raise ValueError(
                f"residual_scale: expected a number in (0, 10], got {self.residual_scale!r}"
            )


class Denoiser(ModelMixin, ConfigMixin):
    """The network F of EDM (Karras et al., arXiv 2206.00364, equation 7).

    `diffusers.EDMEulerScheduler` scales its input and combines its output; it works on
    pixel-unshuffled frames, so that a 64 x 64 frame is a grid of 16 x 16 patches.
    """

    @register_to_config
    def __init__(
        self,
        frame_size: int = 64,
        code_size: int = 24,
        state_size: int = 4,
        patch_size: int = 4,
        width: int = 64,
        condition_blocks: int = 2,
        denoise_blocks: int = 1,
        residual_scale: float = 0.3,
    ) -> None:
        super().__init__()
        DenoiserConfig(
            frame_size,
            code_size,
            state_size,
            patch_size,
            width,
            condition_blocks,
            denoise_blocks,
            residual_scale,
        )
        pixels = 3 * patch_size**2
        side = frame_size // patch_size // 2
        embedding = 4 * width
        self.embed = nn.Sequential(
            nn.Linear(2 * code_size + state_size, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
        )
        self.layout = nn.Sequential(
            nn.Linear(embedding, width * side * side),
            nn.Unflatten(1, (width, side, side)),
            nn.SiLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
        )
        self.anchor_stem = nn.Conv2d(pixels, width, 1)
        self.condition_layers = nn.ModuleList(
            _ResidualBlock(width, embedding) for _ in range(condition_blocks)
        )
        self.noise_embed = nn.Sequential(nn.Linear(32, embedding), nn.SiLU())
        self.sample_stem = nn.Conv2d(pixels, width, 1)
        self.denoise_layers = nn.ModuleList(
            _ResidualBlock(width, embedding) for _ in range(denoise_blocks)
        )
        self.head_norm = GroupNorm(8, width)
        self.head = nn.Conv2d(width, 3 * pixels, 1)
        _zero(self.head)
        self.register_buffer("state_mean", torch.zeros(state_size))
        self.register_buffer("state_std", torch.ones(state_size))
        self.float()  # whatever torch's default dtype is

    def condition(
        self, anchor: Tensor, first_code: Tensor, code: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What to draw, computed once a frame.

        Args:
            anchor: `(B, 3, H, W)` float in [-1, 1], the episode's first frame.
            first_code: `(B, K)`, its code.
            code: `(B, K)`, the code of the frame to draw.
            state: `(B, S)`, the robot's state in it.

        Returns:
            `(B, width, H / patch, W / patch)`, and the anchor.
        """
        place = (state - self.state_mean) / self.state_std
        embedding = self.embed(torch.cat([code, code - first_code, place], dim=1))
        maps = self.layout(embedding) + self.anchor_stem(
            F.pixel_unshuffle(anchor, self.config.patch_size)
        )
        for block in self.condition_layers:
            maps = block(maps, embedding)
        return maps, anchor

    def forward(self, sample: Tensor, timestep: Tensor, condition: tuple[Tensor, Tensor]) -> Tensor:
        """One evaluation of F.

        Args:
            sample: `(B, 3, H, W)`, as `scheduler.scale_model_input` gives it.
            timestep: `()` or `(B,)`, the scheduler's, which is c_noise = log(sigma) / 4.
            condition: As `condition` returned it.

        Returns:
            `(B, 3, H, W)`, for `scheduler.step`.
        """
        maps, anchor = condition
        timestep = timestep.to(sample.device).expand(len(sample))
        embedding = self.noise_embed(_sinusoidal(timestep).to(maps.dtype))
        x = maps + self.sample_stem(
            F.pixel_unshuffle(sample.to(maps.dtype), self.config.patch_size)
        )
        for block in self.denoise_layers:
            x = block(x, embedding)
        x = self.head(F.silu(self.head_norm(x)))
        # A patch's 48 values of noise and of the anchor do not fit through the network beside what
        # it has to say: gates let it cancel both pixel by pixel.
        value, noise_gate, anchor_gate = (
            F.pixel_shuffle(x, self.config.patch_size).float().chunk(3, dim=1)
        )
        return value + noise_gate * sample + anchor_gate * anchor


class GroupNorm(nn.GroupNorm):
    """On CPUs bfloat16 is normed in float32, and rounded back.

    The bits are the same; torch's own kernel for channels-last bfloat16 takes several times as long
    (results/log.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.bfloat16:
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


class _ResidualBlock(nn.Module):
    """Two convolutions; the second norm is scaled and shifted by an embedding."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.norm2 = GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        _zero(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), scale + 1)
        return x + self.conv2(F.silu(h))


def _zero(module: nn.Module) -> None:
    """Lets a residual branch begin as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def _sinusoidal(c_noise: Tensor, size: int = 32) -> Tensor:
    """`(B,)` -> `(B, size)`: sines and cosines over octaves that suit c_noise's range of +-2."""
    c_noise = c_noise.float()
    octaves = torch.linspace(
        0, math.log(32.0), size // 2, dtype=torch.float32, device=c_noise.device
    )
    angles = c_noise[:, None] * octaves.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)
