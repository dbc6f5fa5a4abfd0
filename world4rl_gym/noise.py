"""Counter-based Gaussian noise: one call for all rows, on any device.

A row's noise is a pure function of its seed and its step, so a row draws the same noise alone or
among thousands, nothing has to be stored but two integers a row, and no global generator is used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def row_noise(seeds: Tensor, steps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draws standard normal noise for each row.

    The counter of every element is mixed with its row's key by the 32-bit finaliser of MurmurHash3
    (https://github.com/aappleby/smhasher), twice; Box and Muller's transform makes normals of it.

    Args:
        seeds: `(B,)` int64, one a row, 0 <= seed < 2**32.
        steps: `(B,)` int64, the step within the row's episode.
        shape: Shape of one row's noise; an even number of elements.

    Returns:
        `(B, *shape)` float32.
    """
    count = math.prod(shape)
    if count % 2:
        raise ValueError(f"shape: expected an even number of elements, got {shape}")
    key = _mix(_mix(seeds & _MASK) ^ ((steps * 0x9E3779B1) & _MASK))
    counter = torch.arange(count, device=seeds.device, dtype=torch.int64)
    bits = _mix(_mix(counter * 0x85EBCA77 & _MASK) ^ key.unsqueeze(1))
    # 24 bits are what a float32 in (0, 1) holds.
    uniform = ((bits >> 8).to(torch.float32) + 0.5) * 2.0**-24
    radius = uniform[:, ::2].log().mul_(-2).sqrt_()
    angle = uniform[:, 1::2] * (2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1).view(-1, *shape)


def _mix(x: Tensor) -> Tensor:
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)
