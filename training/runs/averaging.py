"""Exponential moving averages of weights, which are the weights that ship."""

from __future__ import annotations

import torch
from torch import nn


def update_ema(ema: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moves the averaged weights towards the model's, faster while training is young."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for average, value in zip(ema.parameters(), model.parameters(), strict=True):
            average.lerp_(value, 1 - decay)
