"""Frames of many episodes in one file that is mapped, not read: a batch reads its own frames alone.

A hundred thousand episodes hold more frames than a machine has memory. Knows files; knows nothing
of training.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from world4rl_gym.episodes import EpisodeError


def map_frames(folder: Path, frames: Iterable[np.ndarray]) -> Tensor:
    """Writes frames one after another into a file without a name, and maps it.

    Its place on the disk is free again once the tensor is gone, even after a kill.

    Args:
        folder: Where the file is made.
        frames: `(T, H, W, 3)` uint8 each, all of one height and width.

    Returns:
        `(N, 3, H, W)` uint8, to be indexed by rows; not to be written to.

    Raises:
        EpisodeError: There are no frames, or they are of several sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape: tuple[int, ...] = ()
    with tempfile.TemporaryFile(dir=folder) as file:
        for part in frames:
            if shape not in ((), part.shape[1:]):
                raise EpisodeError(f"frames: expected all of {shape}, got {part.shape[1:]}")
            shape = part.shape[1:]
            file.write(part.transpose(0, 3, 1, 2).tobytes())
        if not shape:
            raise EpisodeError("frames: expected at least one")
        file.flush()
        height, width, channels = shape
        # Shared, for of a private mapping the whole counts as memory; not read only, which torch
        # does not know.
        mapped = np.memmap(file, np.uint8, mode="r+").reshape(-1, channels, height, width)
    return torch.from_numpy(mapped)


def checksum(frames: Tensor, rows: int = 1024) -> str:
    """A checksum of `(N, 3, H, W)` uint8 frames, of which so many are read at a time."""
    value = 0
    for part in frames.split(rows):
        value = zlib.crc32(part.contiguous().numpy(), value)
    return f"{value:08x}"
