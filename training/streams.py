"""Streams: rollouts that go on through training, one imagined frame further at every visit.

Unrolling a window of K frames costs K forward and backward passes and never sees what becomes of an
image after fifty. A stream costs one pass a step: the frame that the network has just predicted, in
the very step that trains it, becomes context of the stream's next visit, while the target stays the
real next frame. So the network meets its own errors at every depth and learns to undo them (as
self-forcing does, arXiv 2506.08009, with DIAMOND's several autoregressive steps as the short case).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from training.windows import Windows

LOST = 0.06
"""Mean squared error, pixels in [0, 1], of the worst 8 x 8 block from which a stream is lost.

What truly follows no longer follows from what is imagined then: it would teach the network that
things jump to where they succeed.
"""


@dataclasses.dataclass(frozen=True)
class StreamBatch:
    """The streams of one training step.

    Attributes:
        rows: `(B,)` int64, which streams.
        anchor: `(B, 3, H, W)` uint8, the real frame that the network is to remember.
        context: `(B, C, 3, H, W)` uint8, real where the stream has just begun, else imagined.
        actions: `(B, C, A)` float32; the last leads to the target.
        target: `(B, 3, H, W)` uint8, the real next frame.
    """

    rows: Tensor
    anchor: Tensor
    context: Tensor
    actions: Tensor
    target: Tensor


class Streams:
    """Some streams over the episodes of `windows`.

    Args:
        windows: Where streams begin, and what truly follows.
        count: Number of streams.
        generator: Draws where they begin.
    """

    def __init__(self, windows: Windows, count: int, generator: torch.Generator) -> None:
        self._windows = windows
        shape = tuple(windows.frames.shape[1:])
        self._now = torch.zeros(count, dtype=torch.int64)
        self._anchor = torch.zeros(count, *shape, dtype=torch.uint8)
        self._context = torch.zeros(count, windows.context_length, *shape, dtype=torch.uint8)
        self._begin(torch.arange(count), generator)

    def draw(self, count: int, generator: torch.Generator) -> StreamBatch:
        """Draws `count` of the streams, without replacement."""
        rows = torch.randperm(len(self._now), generator=generator)[:count]
        now = self._now[rows]
        return StreamBatch(
            rows,
            self._anchor[rows],
            self._context[rows],
            self._windows.context_actions(now),
            self._windows.frames[now + 1],
        )

    def advance(
        self,
        batch: StreamBatch,
        predicted: Tensor,
        mean_length: float,
        generator: torch.Generator,
    ) -> None:
        """Goes on with what was predicted; ended and lost streams begin anew.

        Args:
            batch: What was drawn.
            predicted: `(B, 3, H, W)` uint8, the frame predicted for each of its streams.
            mean_length: Mean number of predictions of a stream, where nothing else ends it.
            generator: Draws which end, and where they begin anew.
        """
        rows = batch.rows
        self._context[rows] = torch.cat([batch.context[:, 1:], predicted[:, None]], dim=1)
        self._now[rows] += 1
        ended = torch.rand(len(rows), generator=generator) < 1 / mean_length
        ended |= ~self._windows.follows(self._now[rows])
        ended |= worst_block(predicted, batch.target) > LOST
        self._begin(rows[ended], generator)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns where every stream stands, as tensors whose first dimension is the stream."""
        return {"now": self._now, "anchor": self._anchor, "context": self._context}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes on from a `state_dict`."""
        self._now, self._anchor, self._context = state["now"], state["anchor"], state["context"]

    def _begin(self, rows: Tensor, generator: torch.Generator) -> None:
        now = self._windows.draw(len(rows), generator)
        self._now[rows] = now
        self._anchor[rows] = self._windows.frames[self._windows.draw_earlier(now, generator)]
        self._context[rows] = self._windows.at(now, 0).frames


def worst_block(frames: Tensor, others: Tensor) -> Tensor:
    """Mean squared error of the worst 8 x 8 block of each pair of frames.

    Args:
        frames: `(B, 3, H, W)` uint8.
        others: The same shape.

    Returns:
        `(B,)` float32, pixels in [0, 1].
    """
    error = ((frames.float() - others.float()) / 255).square().mean(1, keepdim=True)
    side = min(8, error.shape[-1])
    return F.avg_pool2d(error, side, stride=max(1, side // 2)).amax(dim=(1, 2, 3))
