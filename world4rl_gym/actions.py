"""Two-hot action encoding (World4RL, arXiv 2509.19080)."""

from __future__ import annotations

import torch
from torch import Tensor


def two_hot(actions: Tensor, bins: int) -> Tensor:
    """Spreads every action component over its two nearest bins.

    With bin centres b evenly spaced over [-1, 1], a component a between b[k] and b[k+1] gives
    weight (b[k+1] - a) / (b[k+1] - b[k]) to bin k and the rest to bin k + 1: a code that is
    continuous in a and keeps its exact value.

    Args:
        actions: `(..., A)` float in [-1, 1]; values outside are clipped.
        bins: Number of bins K, at least 2.

    Returns:
        `(..., A, K)` float; sums to 1 over the last axis.
    """
    position = (actions.clamp(-1, 1) + 1) * ((bins - 1) / 2)
    centres = torch.arange(bins, device=actions.device, dtype=position.dtype)
    return (1 - (position.unsqueeze(-1) - centres).abs()).clamp(min=0)
