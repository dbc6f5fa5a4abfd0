"""Training windows: a few context frames, and the frames that followed them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.episodes import Episode
from world4rl_gym.pixels import channels_first


@dataclasses.dataclass(frozen=True)
class WindowBatch:
    """A batch of windows of C context frames and K frames to predict.

    Attributes:
        frames: `(B, C + K, 3, H, W)` uint8.
        actions: `(B, C + K - 1, A)` float32; `actions[:, i]` leads from frame i to frame i + 1.
    """

    frames: Tensor
    actions: Tensor


class Windows:
    """All windows of some episodes, held in memory and drawn by a seed.

    Before an episode's first frame the context repeats that frame, with zero actions, just as an
    imagined episode begins.

    Args:
        episodes: At least one, all of one frame size and action size.
        context_length: Context frames C.
    """

    def __init__(self, episodes: Sequence[Episode], context_length: int) -> None:
        self.context_length = context_length
        self.frames = channels_first(torch.from_numpy(np.concatenate([e.frames for e in episodes])))
        # One action row a frame: the action taken there; a zero row stands at the episode's end.
        self.actions = torch.from_numpy(
            np.concatenate([np.pad(e.actions, ((0, 1), (0, 0))) for e in episodes])
        )
        lengths = np.array([len(e.frames) for e in episodes])
        first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._first = torch.from_numpy(np.repeat(first, lengths))
        self._left = torch.from_numpy(np.concatenate([np.arange(n)[::-1] for n in lengths]).copy())

    def residual_deviation(self) -> float:
        """Returns the deviation of frame differences, with pixels in [-1, 1]."""
        total, count = 0.0, 0
        within = (self._left[:-1] > 0).nonzero().squeeze(1)
        for rows in within[:: max(1, len(within) // 4096)].split(256):
            step = self.frames[rows + 1].float() - self.frames[rows].float()
            total += float((step * (2 / 255)).square().sum())
            count += step.numel()
        return (total / count) ** 0.5

    def fingerprint(self) -> str:
        """Returns a checksum of frames and actions, to tell one data set from another."""
        crc = zlib.crc32(self.frames.numpy().data)
        return f"{zlib.crc32(self.actions.numpy().data, crc):08x}-{len(self.frames)}"

    def draw(self, count: int, predicted: int, generator: torch.Generator) -> WindowBatch:
        """Draws `count` windows with `predicted` frames to predict, with replacement."""
        starts = (self._left >= predicted).nonzero().squeeze(1)
        now = starts[torch.randint(len(starts), (count,), generator=generator)]
        return self.at(now, predicted)

    def at(self, now: Tensor, predicted: int) -> WindowBatch:
        """Returns the windows whose last context frame is frame `now` of the pool, `(B,)` int64."""
        offsets = torch.arange(1 - self.context_length, predicted + 1)
        index = now[:, None] + offsets
        first = self._first[now][:, None]
        actions = self.actions[index.clamp(min=0)[:, :-1]]
        actions = actions.masked_fill((index[:, :-1] < first).unsqueeze(-1), 0.0)
        return WindowBatch(self.frames[torch.maximum(index, first)], actions)
