"""Real episodes beside what the world model imagines of them: replays, strips and videos."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib
import numpy as np
import torch

from training.episodes import Episode
from training.replay import replay
from world4rl_gym.denoiser import Denoiser
from world4rl_gym.scheduler import EulerScheduler

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


def save_videos(stem: Path, real: np.ndarray, imagined: np.ndarray, scale: int = 4) -> None:
    """Writes `stem`.mp4 and `stem`.gif: real above imagined, 10 frames a second."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    length = min(len(real), len(imagined))
    gap = np.full((length, 2, real.shape[2], 3), 255, np.uint8)
    video = enlarge(np.concatenate([real[:length], gap, imagined[:length]], axis=1), scale)
    iio.imwrite(stem.with_suffix(".mp4"), video, fps=10, codec="libx264", macro_block_size=1)
    iio.imwrite(stem.with_suffix(".gif"), video, duration=100, loop=0)


@contextlib.contextmanager
def drawing(path: Path, columns: int = 1, rows: int = 1, **options: Any) -> Iterator[Any]:
    """Gives axes to draw on, without a display, and writes their figure to `path`."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(rows, columns, layout="constrained", **options)
    yield axes
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_loss_curve(losses: Path, path: Path, smoothing: int = 100) -> None:
    """Draws `losses.csv` of a training run: the loss, averaged over some steps, by step."""
    table = np.atleast_1d(np.genfromtxt(losses, delimiter=",", names=True))
    width = max(1, min(smoothing, len(table) // 4))
    loss = np.convolve(table["loss"], np.ones(width) / width, mode="valid")
    passed = np.diff(table["seconds"], prepend=0.0)
    hours = passed[passed > 0].sum() / 3600  # the clock begins anew where the run was resumed
    with drawing(path, figsize=(6, 3.2)) as axes:
        axes.semilogy(table["step"][width - 1 :], loss)
        axes.set(xlabel="step", ylabel=f"loss, mean of {width} steps", title=f"{hours:.2f} hours")


def save_comparison(
    denoiser: Denoiser, scheduler: EulerScheduler, episodes: Sequence[Episode], path: Path
) -> np.ndarray:
    """Writes a strip of one held-out episode of each task and returns the picture."""
    chosen: dict[str, Episode] = {}
    for episode in episodes:
        if episode.task not in chosen or episode.behaviour == "policy":
            chosen[episode.task] = episode
    shown = list(chosen.values())
    with torch.no_grad():
        imagined = replay(denoiser, scheduler, shown, num_inference_steps=1)
    strips = [comparison_strip(e.frames, r.frames) for e, r in zip(shown, imagined, strict=True)]
    width = min(strip.shape[1] for strip in strips)
    picture = np.concatenate([strip[:, :width] for strip in strips])
    save_image(path, picture)
    return picture
