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
        self._followed = (self._left > 0).nonzero().squeeze(1)

    def residual_deviation(self) -> float:
        """Returns the deviation of frame differences, with pixels in [-1, 1]."""
        total, count = 0.0, 0
        for rows in self._followed[:: max(1, len(self._followed) // 4096)].split(256):
            step = self.frames[rows + 1].float() - self.frames[rows].float()
            total += float((step * (2 / 255)).square().sum())
            count += step.numel()
        return (total / count) ** 0.5

    def fingerprint(self) -> str:
        """Returns a checksum of frames and actions, to tell one data set from another."""
        crc = zlib.crc32(self.frames.numpy().data)
        return f"{zlib.crc32(self.actions.numpy().data, crc):08x}-{len(self.frames)}"

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws frames that another one follows, with replacement: `(count,)` int64."""
        return self._followed[torch.randint(len(self._followed), (count,), generator=generator)]

    def draw_earlier(self, now: Tensor, generator: torch.Generator) -> Tensor:
        """Draws, for each frame `now`, its episode's first frame or any before its context.

        Half of them are the first, which is what an imagined episode mostly remembers.
        """
        first = self._first[now]
        before = (now - first - self.context_length + 2).clamp(min=1)
        step = (torch.rand(len(now), generator=generator) * before).long().clamp(max=before - 1)
        is_first = torch.rand(len(now), generator=generator) < 0.5
        return torch.where(is_first, first, first + step)

    def follows(self, now: Tensor) -> Tensor:
        """Whether another frame of its episode follows each frame `now`."""
        return self._left[now] > 0

    def context_actions(self, now: Tensor) -> Tensor:
        """Returns the last C actions up to the one taken at frame `now`: `(B, C, A)`."""
        return self._actions(now, torch.arange(1 - self.context_length, 1))

    def at(self, now: Tensor, predicted: int) -> WindowBatch:
        """Returns the windows whose last context frame is frame `now` of the pool, `(B,)` int64."""
        offsets = torch.arange(1 - self.context_length, predicted + 1)
        index = torch.maximum(now[:, None] + offsets, self._first[now][:, None])
        return WindowBatch(self.frames[index], self._actions(now, offsets[:-1]))

    def _actions(self, now: Tensor, offsets: Tensor) -> Tensor:
        """Actions taken at these offsets from frame `now`, zero before the episode's first."""
        index = now[:, None] + offsets
        before = index < self._first[now][:, None]
        return self.actions[index.clamp(min=0)].masked_fill(before.unsqueeze(-1), 0.0)
