"""Actions and their units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
