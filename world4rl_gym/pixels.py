"""The only converter between uint8 frames and the networks' floats."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(frames: Tensor) -> Tensor:
    """Maps uint8 levels 0..255, of any shape, to float32 in [-1, 1]."""
    return frames.to(torch.float32).mul_(2 / 255).sub_(1)


def to_uint8(pixels: Tensor) -> Tensor:
    """Clamps floats to [-1, 1] and rounds them to the nearest of the 256 levels, as uint8."""
    return pixels.float().add(1).mul_(255 / 2).round_().clamp_(0, 255).to(torch.uint8)


def channels_first(frames: Tensor) -> Tensor:
    """`(..., H, W, 3)` to contiguous `(..., 3, H, W)`."""
    return frames.movedim(-1, -3).contiguous()


def channels_last(frames: Tensor) -> Tensor:
    """`(..., 3, H, W)` to contiguous `(..., H, W, 3)`."""
    return frames.movedim(-3, -1).contiguous()
