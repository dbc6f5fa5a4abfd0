"""Real episodes beside what the world model imagines of them: strips and videos."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib
import numpy as np

STRIP_FRAMES = (0, 1, 5, 10, 15, 20, 30, 40, 50)


def comparison_strip(
    real: np.ndarray, imagined: np.ndarray, at: Sequence[int] = STRIP_FRAMES, scale: int = 2
) -> np.ndarray:
    """Two rows of chosen frames, real above imagined.

    Args:
        real: `(T + 1, H, W, 3)` uint8.
        imagined: The same shape, from the same first frame and actions.
        at: Indices of the frames shown; those beyond the end are left out.
        scale: Integer enlargement.

    Returns:
        `(2 H scale, columns W scale, 3)` uint8.
    """
    columns = [
        np.concatenate([real[i], imagined[i]], axis=0)
        for i in at
        if i < min(len(real), len(imagined))
    ]
    return enlarge(np.concatenate(columns, axis=1), scale)


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Repeats every pixel `scale` times in both directions of `(..., H, W, 3)`."""
    return image.repeat(scale, axis=-3).repeat(scale, axis=-2)


def save_image(path: Path, image: np.ndarray) -> None:
    """Writes a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, image)


def save_video(path: Path, real: np.ndarray, imagined: np.ndarray, scale: int = 2) -> None:
    """Writes an MP4: real above imagined, 10 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    length = min(len(real), len(imagined))
    gap = np.full((length, 2, real.shape[2], 3), 255, np.uint8)
    video = enlarge(np.concatenate([real[:length], gap, imagined[:length]], axis=1), scale)
    iio.imwrite(path, video, fps=10, codec="libx264", macro_block_size=1)


def join_videos(videos: Sequence[Path], path: Path) -> None:
    """Writes a GIF of videos of one size side by side, every other frame."""
    shown = [np.asarray(iio.imread(video))[::2] for video in videos]
    length = min(map(len, shown))
    joined = np.concatenate([video[:length] for video in shown], axis=2)
    iio.imwrite(path, joined, duration=200, loop=0)


@contextlib.contextmanager
def drawing(path: Path, columns: int = 1, rows: int = 1, **options: Any) -> Iterator[Any]:
    """Gives axes to draw on, without a display, and writes their figure to `path`."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(rows, columns, layout="constrained", **options)
    yield axes
    figure.savefig(path, dpi=110)
    plt.close(figure)
