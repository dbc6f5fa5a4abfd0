"""What becomes of a recording: fewer frames, square frames, and a split of its own.

Knows arrays; knows nothing of formats and files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from training.data.importers.recording import Recording


def kept_frames(count: int, every: int) -> np.ndarray:
    """Indices of the frames that thinning keeps: every N-th, and the last of all."""
    kept = np.arange(0, count, every)
    return kept if kept[-1] == count - 1 else np.append(kept, count - 1)


def thin(recording: Recording, every: int, summed: Sequence[int]) -> dict[str, np.ndarray | None]:
    """A recording's arrays when only every N-th frame is kept.

    Args:
        recording: Of F frames.
        every: N.
        summed: Indices of the action components that are displacements.

    Returns:
        `kept`, the frames' indices; `actions`, displacements summed and positions the last;
        `success`, whether the task stood solved at any frame of a decision; `state`, `command`.
    """
    kept = kept_frames(recording.count, every)

    def of_kept(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[kept].astype(np.float32)

    actions = recording.actions[kept[1:] - 1]
    for j in summed:
        actions[:, j] = np.add.reduceat(recording.actions[:, j], kept[:-1])
    assert recording.success is not None
    return {
        "kept": kept,
        "actions": actions,
        "success": np.logical_or.reduceat(recording.success, kept[:-1]),
        "state": of_kept(recording.state),
        "command": of_kept(recording.command),
    }


def squared(frame: np.ndarray, size: int, fit: str) -> np.ndarray:
    """A frame `(H, W, 3)` uint8 of any size as `(size, size, 3)` uint8.

    Args:
        frame: The frame.
        size: Side of the result in pixels.
        fit: "pad" (black borders), "crop" (the middle) or "resize" (squeezed).
    """
    image, way = Image.fromarray(frame), Image.Resampling.BILINEAR  # averages when smaller
    if fit == "pad":
        return np.asarray(ImageOps.pad(image, (size, size), way))
    if fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), way))


def split_of(solved: Sequence[bool], validation: float, test: float, seed: int) -> list[str]:
    """The split of each episode: successes and failures are shared out apart, at random.

    At least one of three of a kind goes to each split that is asked for.
    """
    rng = np.random.default_rng(seed)
    splits = ["train"] * len(solved)
    for kind in (True, False):
        own = rng.permutation([i for i, one in enumerate(solved) if one == kind])
        taken = 0
        for name, share in (("test", test), ("validation", validation)):
            count = round(len(own) * share)
            if share and len(own) >= 3:
                count = max(count, 1)
            for index in own[taken : taken + count]:
                splits[int(index)] = name
            taken += count
    return splits
