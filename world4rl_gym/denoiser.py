"""Action-conditioned EDM denoiser over a U-Net.

The U-Net works on pixel-unshuffled frames: a 64 x 64 frame becomes a 16 x 16 grid of 4 x 4 patches,
which is what makes imagination cheap on a CPU. What is diffused is not the next frame but its
difference from the last one, so that whatever does not move costs nothing. Beside the last few
frames the network sees the one that the rollout began from, the anchor: what the arm hid and then
uncovers is there, and so is a background that has not drifted.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world4rl_gym.actions import two_hot


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """What a `Denoiser` is built from; saved beside its weights.

    Attributes:
        frame_size: Height and width of a frame in pixels; a multiple of
            `patch_size * 2 ** (len(channels) - 1)`.
        context_length: Number of past frames, and of actions, that it sees.
        action_size: Number of action components.
        action_bins: Bins of the two-hot code of each component.
        patch_size: Side of the square patches that become channels.
        channels: Width of each level of the U-Net, a multiple of 8.
        layers_per_block: Residual blocks a level on the way down; one more on the way up.
        embedding_size: Width of the embedding of noise level and actions.
        sigma_data: EDM's deviation of the data.
        residual_scale: Deviation of frame differences over `sigma_data`.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    frame_size: int = 64
    context_length: int = 4
    action_size: int = 4
    action_bins: int = 21
    patch_size: int = 4
    channels: tuple[int, ...] = (64, 128)
    layers_per_block: int = 2
    embedding_size: int = 256
    sigma_data: float = 0.5
    residual_scale: float = 0.25

    def __post_init__(self) -> None:
        bounds = {
            "frame_size": (8, 512),
            "context_length": (1, 16),
            "action_size": (1, 64),
            "action_bins": (2, 256),
            "patch_size": (1, 16),
            "layers_per_block": (1, 4),
            "embedding_size": (16, 1024),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name}: expected an integer in [{low}, {high}], got {value!r}")
        for name in ("sigma_data", "residual_scale"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= 10:
                raise ValueError(f"{name}: expected a number in (0, 10], got {value!r}")
        widths = self.channels
        if not isinstance(widths, (tuple, list)) or not 1 <= len(widths) <= 4:
            raise ValueError(f"channels: expected 1 to 4 widths, got {widths!r}")
        if any(type(c) is not int or not 8 <= c <= 1024 or c % 8 for c in widths):
            raise ValueError(f"channels: expected multiples of 8 in [8, 1024], got {widths!r}")
        object.__setattr__(self, "channels", tuple(widths))
        grain = self.patch_size * 2 ** (len(widths) - 1)
        if self.frame_size % grain:
            raise ValueError(
                f"frame_size: expected a multiple of {grain} (patch_size and levels), "
                f"got {self.frame_size}"
            )


class Denoised(NamedTuple):
    """What the denoiser gives.

    Attributes:
        residual: `(B, 3, H, W)` float32, the denoised scaled difference.
        log_error: `(B, H / patch_size, W / patch_size)` float32, what the network expects the
            logarithm of its own output's mean squared error to be in each patch.
    """

    residual: Tensor
    log_error: Tensor


class Denoiser(nn.Module):
    """EDM-preconditioned denoiser of the next frame, given past frames and actions.

    With `last` the last context frame and `s` the `residual_scale`, EDM's diffusion (equations 7
    and 8 of Karras et al., arXiv 2206.00364) is of `(next - last) / s`.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = _UNet(config)

    def forward(
        self, noisy: Tensor, sigma: Tensor, anchor: Tensor, context: Tensor, actions: Tensor
    ) -> Denoised:
        """Denoises the scaled difference between the next frame and the last.

        Args:
            noisy: `(B, 3, H, W)` float, the scaled difference plus noise of deviation `sigma`.
            sigma: `(B,)` float.
            anchor: `(B, 3, H, W)` float in [-1, 1], the frame that the rollout began from.
            context: `(B, T, 3, H, W)` float in [-1, 1], oldest first.
            actions: `(B, T, A)` float in [-1, 1]; the last leads from the last frame to the next.

        Returns:
            The denoised scaled difference, and the error expected of it.
        """
        c_skip, c_out, c_in, c_noise = self._preconditioning(sigma.float())
        scaled = noisy * c_in
        inputs = torch.cat([scaled, anchor, context.flatten(1, 2)], dim=1)
        outputs, log_error = self.unet(inputs, c_noise, actions)
        value, noise_gate, last_gate, anchor_gate, flow = outputs.float().split((3, 3, 3, 3, 2), 1)
        # A patch's 48 values of noise, of the last frame and of the anchor do not fit through the
        # U-Net beside what it has to say. Gates let it work pixel by pixel: cancel the noise
        # wherever nothing moves and the last frame wherever something moves away, and bring back
        # the anchor (a gate of 1 at high noise) wherever that uncovers the background.
        last = context[:, -1]
        uncovered = self.to_residual(anchor, last) / self.config.sigma_data
        # The flow carries the last frame's pixels along (as Finn et al., arXiv 1605.07157, do):
        # what is a few pixels wide need not pass through the U-Net to stay sharp.
        moved = self.to_residual(_carried(last, flow), last) / self.config.sigma_data
        network = value + moved + noise_gate * scaled + last_gate * last + anchor_gate * uncovered
        return Denoised(c_skip * noisy + c_out * network, log_error.float())

    def to_residual(self, frames: Tensor, last: Tensor) -> Tensor:
        """Scaled difference of `(B, 3, H, W)` float frames from the last ones."""
        return (frames - last) / self.config.residual_scale

    def to_frame(self, residual: Tensor, last: Tensor) -> Tensor:
        """Inverse of `to_residual`, clamped to [-1, 1]."""
        return (last + residual * self.config.residual_scale).clamp(-1, 1)

    def loss(
        self,
        noise: Tensor,
        sigma: Tensor,
        target: Tensor,
        anchor: Tensor,
        context: Tensor,
        actions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """EDM's loss, weighted so that the network's output error counts alike at every level.

        Args:
            noise: `(B, 3, H, W)` standard normal.
            sigma: `(B,)` noise levels.
            target: `(B, 3, H, W)` float in [-1, 1], the true next frame.
            anchor: `(B, 3, H, W)` float in [-1, 1].
            context: `(B, T, 3, H, W)` float in [-1, 1].
            actions: `(B, T, A)` float in [-1, 1].

        Returns:
            The mean loss, and the denoised next frame `(B, 3, H, W)`, detached.
        """
        last = context[:, -1]
        residual = self.to_residual(target, last)
        noisy = residual + noise * _column(sigma)
        denoised, log_error = self(noisy, sigma, anchor, context, actions)
        _, c_out, _, _ = self._preconditioning(sigma.float())
        error = ((denoised - residual) / c_out).square()
        in_patches = F.avg_pool2d(error.detach().mean(1), self.config.patch_size)
        # Foretold in the logarithm, since errors are heavy-tailed. It trains one layer only, so its
        # weight is free, and small so as not to count in gradient clipping.
        foretelling = F.smooth_l1_loss(log_error, (in_patches + 1e-4).log())
        loss = error.mean() + 0.01 * foretelling
        return loss, self.to_frame(denoised.detach(), last)

    def expected_error(self, log_error: Tensor, sigma: Tensor) -> Tensor:
        """Turns a `log_error` at noise levels `sigma`, `(B,)`, into what it means in pixels.

        Returns:
            The same shape, the root mean squared error expected of each patch, in grey levels.
        """
        _, c_out, _, _ = self._preconditioning(sigma.float())
        return (log_error / 2).exp() * c_out[:, 0] * self.config.residual_scale * (255 / 2)

    def _preconditioning(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        data = self.config.sigma_data
        total = sigma.square() + data**2
        c_skip = data**2 / total
        c_out = sigma * data / total.sqrt()
        c_in = 1 / total.sqrt()
        return _column(c_skip), _column(c_out), _column(c_in), sigma.log() / 4


class _UNet(nn.Module):
    """U-Net over patches; its blocks are modulated by noise level and actions."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        patch_channels = 3 * config.patch_size**2
        widths, emb = config.channels, config.embedding_size
        self.config = config
        self.noise_embedding = nn.Sequential(nn.Linear(64, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.action_embedding = nn.Sequential(
            nn.Linear(config.context_length * config.action_size * config.action_bins, emb),
            nn.SiLU(),
            nn.Linear(emb, emb),
        )
        self.stem = nn.Conv2d(patch_channels * (config.context_length + 2), widths[0], 1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
                self.up.insert(0, _Upsample(width, widths[level - 1]))
            for _ in range(config.layers_per_block):
                self.down.append(_ResidualBlock(width, emb))
                self.up.insert(0, _ResidualBlock(width, emb))
        width = widths[-1]
        self.middle = nn.ModuleList(
            [_ResidualBlock(width, emb), _Attention(width), _ResidualBlock(width, emb)]
        )
        width = widths[0]
        self.head_norm = nn.GroupNorm(8, width)
        self.head = nn.Conv2d(width, (4 * 3 + 2) * config.patch_size**2, 3, padding=1)
        self.error_head = nn.Sequential(nn.Conv2d(width, 32, 1), nn.SiLU(), nn.Conv2d(32, 1, 1))
        _zero(self.head)
        _zero(self.error_head[-1])

    def forward(self, inputs: Tensor, c_noise: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, 3 (T + 2), H, W)`, `(B,)`, `(B, T, A)` -> `(B, 14, H, W)`, and errors.

        The 14 channels are values, three gates and a flow; the errors those of `Denoised`.
        """
        dtype = self.stem.weight.dtype
        code = two_hot(actions, self.config.action_bins).flatten(1).to(dtype)
        emb = self.noise_embedding(_sinusoidal(c_noise).to(dtype)) + self.action_embedding(code)
        emb = F.silu(emb)
        x = F.pixel_unshuffle(inputs.to(dtype), self.config.patch_size)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for layer in self.down:
            if isinstance(layer, _ResidualBlock):
                x = layer(x, emb)
                skips.append(x)
            else:
                x = layer(x)
        for layer in self.middle:
            x = layer(x, emb) if isinstance(layer, _ResidualBlock) else layer(x)
        for layer in self.up:
            x = layer(x + skips.pop(), emb) if isinstance(layer, _ResidualBlock) else layer(x)
        x = F.silu(self.head_norm(x))
        # Features are as heavy-tailed as frame differences; a logarithm must not be.
        log_error = self.error_head(torch.asinh(x.detach())).squeeze(1)
        return F.pixel_shuffle(self.head(x), self.config.patch_size), log_error


class _ResidualBlock(nn.Module):
    """Two convolutions; the second norm is scaled and shifted by the embedding."""

    def __init__(self, width: int, embedding_size: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(embedding_size, 2 * width)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        _zero(self.conv2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(emb)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), scale + 1)
        return x + self.conv2(F.silu(h))


class _Attention(nn.Module):
    """Self-attention over all positions of the smallest grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 32 if width % 32 == 0 else 1
        self.norm = nn.GroupNorm(8, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        _zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, columns = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).view(batch, 3, self.heads, width // self.heads, -1)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        return x + self.out(mixed.reshape(batch, width, height, columns))


class _Upsample(nn.Module):
    """A convolution and nearest-neighbour doubling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), scale_factor=2, mode="nearest")


def _sinusoidal(c_noise: Tensor, size: int = 64) -> Tensor:
    """`(B,)` -> `(B, size)`: sines and cosines over octaves that suit c_noise's range of +-2."""
    frequencies = torch.exp(torch.linspace(0, math.log(64.0), size // 2, device=c_noise.device))
    angles = c_noise[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _carried(frames: Tensor, flow: Tensor) -> Tensor:
    """Reads `(B, 3, H, W)` frames at every pixel's place plus its flow, `(B, 2, H, W)` pixels."""
    height, width = frames.shape[-2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    places = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)
    return F.grid_sample(
        frames.float(), places, mode="bicubic", padding_mode="border", align_corners=True
    )


def _zero(module: nn.Module) -> None:
    """Lets a residual branch begin as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
