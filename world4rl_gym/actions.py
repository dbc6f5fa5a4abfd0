"""Actions: their units, and the two-hot encoding (World4RL, arXiv 2509.19080)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

UNIT = (-1.0,), (1.0,)
"""Bounds of actions that need no scaling."""


def scaled(actions: np.ndarray, low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """Actions in the robot's units as the memory is given them.

    Args:
        actions: `(..., A)`, from `low` to `high`.
        low: The smallest value of each component, or of all.
        high: The largest.

    Returns:
        `(..., A)` in [-1, 1]; values outside lie outside. With bounds of -1 and 1, `actions` as
        they are; so are what are no numbers or of another A, for whoever checks them.
    """
    numeric = np.issubdtype(actions.dtype, np.number) and actions.ndim
    if (tuple(low), tuple(high)) == UNIT or not numeric or len(low) not in (1, actions.shape[-1]):
        return actions
    bottom, top = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return 2 * (actions - bottom) / (top - bottom) - 1


def unscaled(actions: np.ndarray, low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """The reverse of `scaled`: `(..., A)` in [-1, 1] -> `(..., A)` float32 in the robot's units."""
    if (tuple(low), tuple(high)) == UNIT:
        return actions
    bottom, top = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return (bottom + (np.asarray(actions, np.float64) + 1) / 2 * (top - bottom)).astype(np.float32)


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
