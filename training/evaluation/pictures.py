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


def comparison_strip(real: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    """Two rows of the frames `STRIP_FRAMES` that there are, real above imagined, enlarged twice.

    Args:
        real: `(T + 1, H, W, 3)` uint8.
        imagined: The same shape, from the same first frame and actions.

    Returns:
        `(4 H, 2 columns W, 3)` uint8.
    """
    shown = [t for t in STRIP_FRAMES if t < min(len(real), len(imagined))]
    rows = [np.concatenate(frames[shown], axis=1) for frames in (real, imagined)]
    return enlarge(np.concatenate(rows), 2)


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Repeats every pixel `scale` times in both directions of `(..., H, W, 3)`."""
    return image.repeat(scale, axis=-3).repeat(scale, axis=-2)


def save_image(path: Path, image: np.ndarray) -> None:
    """Writes a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, image)


def save_video(path: Path, real: np.ndarray, imagined: np.ndarray) -> None:
    """Writes an MP4: real above imagined, 10 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    length = min(len(real), len(imagined))
    gap = np.full((length, 2, real.shape[2], 3), 255, np.uint8)
    video = enlarge(np.concatenate([real[:length], gap, imagined[:length]], axis=1), 2)
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
