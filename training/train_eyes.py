"""Trains the eyes of one task: an autoencoder of start frames, and of frames of episodes.

    python -m training.train_eyes --task soccer --episodes data/episodes

No label goes in. Start frames are cheap (a reset each) and many; frames of episodes teach the eyes
to look past the robot, whose state the decoder is given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.frame_file import map_frames
from training.data.start_frames import load_start_frames, start_frames_path
from training.data.trainable import iterate_trainable
from training.runs import command, processes
from training.runs.locks import locked
from training.runs.loop import fit
from training.runs.settings import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    for_task,
    keep_settings,
)
from training.runs.threads import one_thread
from world4rl_gym.components import round_weights, save_component
from world4rl_gym.episodes import BEHAVIOURS
from world4rl_gym.eyes import Eyes, TaskEyes
from world4rl_gym.pixels import channels_first, to_float, to_uint8

SQUARE, FOURTH = 20.0, 100.0
"""Weights of the pixels' squared error and of its square. By the latter what is small counts: a
ball of three pixels that is not drawn is a large error in few pixels."""


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.train_eyes`.

    Attributes:
        task: The task.
        episodes: Folder of episodes and start frames.
        out: Folder of the run; the eyes appear in its `eyes`. "{task}" stands for the task's name.
        code_size: Numbers in a code.
        width: Channels of the encoder.
        steps: Optimiser steps.
        batch_size: Frames a step.
        whiten: Make all colours count alike, so that a small mark of a rare one stands out.
        degrade: Show half of the frames as other cameras, or compressed films, would, so that codes
            do not depend on it.
        later_share: Share of a batch that are frames of episodes, not start frames.
        learning_rate: AdamW's, after the warm-up.
        seed: Seed of weights and batches.
        device: Where to train.
    """

    task: str
    episodes: Path = Path("data/episodes")
    out: Path = Path("runs/eyes/{task}")
    code_size: PositiveInt = 24
    width: PositiveInt = 32
    steps: PositiveInt = 900
    batch_size: PositiveInt = 64
    whiten: bool = False
    degrade: bool = True
    later_share: Annotated[float, Ge(0), Le(0.9)] = 0.25
    learning_rate: PositiveFloat = 2e-3
    seed: NonNegativeInt = 0
    device: str = "cpu"


class Autoencoder(nn.Module):
    """Eyes, and a decoder that draws what differs from the mean frame.

    Args:
        eyes: To be trained.
        state_size: Numbers of the robot's state S; given it, the decoder need not find the robot in
            the code. 0 without one.
    """

    def __init__(self, eyes: TaskEyes, state_size: int) -> None:
        super().__init__()
        self.eyes = eyes
        side = eyes.config.frame_size // 8
        self.decoder = nn.Sequential(
            nn.Linear(eyes.config.code_size + state_size, 64 * side * side),
            nn.Unflatten(1, (64, side, side)),
            nn.SiLU(),
            nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(64, 48, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(48, 3, 4, stride=2, padding=1),
        )

    def forward(self, frames: Tensor, state: Tensor) -> Tensor:
        """`(B, 3, H, W)` uint8 and `(B, S)`, standardised -> `(B, 3, H, W)`, pixels of [-1, 1]."""
        return self.decoder(torch.cat([self.eyes.encode(frames), state], dim=1))


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames to reconstruct.

    Attributes:
        pixels: `(N, 3, H, W)` uint8.
        state: `(N, S)` float32, the robot's standardised state.
    """

    pixels: Tensor
    state: Tensor

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws frames and their states."""
        rows = torch.randint(len(self.pixels), (count,), generator=generator)
        return self.pixels[rows], self.state[rows]


def load_frames(args: Args, folder: Path) -> tuple[Frames, Frames]:
    """Start frames and, mapped in `folder`, frames of episodes; the latter's robot states
    standardise both."""
    first = load_start_frames(args.episodes, args.task, "train")
    apart = start_frames_path(args.episodes, args.task, "train").exists()
    behaviours = ("expert", "random") if apart else BEHAVIOURS  # recorded data are few: all count
    episodes = iterate_trainable(args.episodes, args.task, behaviours)
    states: list[np.ndarray] = []

    def frames() -> Iterator[np.ndarray]:
        for episode in episodes:
            count, state = len(episode.frames), episode.state
            states.append(np.zeros((count, 0)) if state is None else state[:count])
            yield episode.frames

    pixels = map_frames(folder, frames())
    seen = np.concatenate(states)
    mean, deviation = seen.mean(axis=0), seen.std(axis=0).clip(1e-4)

    def standard(state: np.ndarray) -> Tensor:
        return torch.from_numpy(((state - mean) / deviation).astype(np.float32))

    starts = Frames(channels_first(torch.from_numpy(first.frames)), standard(first.state))
    return starts, Frames(pixels, standard(seen))


def train(args: Args) -> Path:
    """Trains the eyes; the same command goes on where it was stopped.

    Returns:
        The folder that holds `eyes`.

    Raises:
        EpisodeError: Frames are missing or broken.
        SettingsError, RunError: The folder belongs to another run.
    """
    out = for_task(args.out, args.task)
    starts, later = load_frames(args, out)
    total = torch.zeros(starts.pixels.shape[1:], dtype=torch.float64)
    for part in starts.pixels.split(1024):
        total += part.sum(dim=0, dtype=torch.float64)
    mean = (total / len(starts.pixels) / 127.5 - 1).float().to(args.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        whole = Eyes(1, starts.pixels.shape[-1], args.code_size, args.width)
        autoencoder = Autoencoder(whole.task(0), starts.state.shape[1]).to(args.device)
    if args.whiten:
        colours = whitening(to_float(starts.pixels[:500]) - mean.cpu()).to(args.device)
        filters = whole.task(0).encoder[0].weight
        with torch.no_grad():
            filters[:, :3] = 3 * torch.einsum("ocyx,cd->odyx", filters[:, :3], colours)
    from_later = round(args.batch_size * args.later_share)

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        first = starts.batch(args.batch_size - from_later, generator)
        other = later.batch(from_later, generator)
        own = processes.share(args.batch_size)
        pixels, state = (torch.cat(pair) for pair in zip(first, other, strict=True))
        seen = degraded(pixels, generator) if args.degrade else pixels
        return tuple(part[own].to(args.device) for part in (seen, pixels, state))

    def loss(
        model: nn.Module, data: tuple[Tensor, ...], step: int, generator: torch.Generator
    ) -> Tensor:
        seen, pixels, state = data
        wrong = model(seen, state) + mean - to_float(pixels)
        if args.whiten:
            wrong = torch.einsum("cd,bdyx->bcyx", colours, wrong)
        square = wrong.square()
        return SQUARE * square.mean() + FOURTH * square.square().mean()

    with locked(out, several=True):
        keep_settings(args, out, ("device", "episodes"))
        fit(
            autoencoder,
            draw,
            loss,
            out,
            steps=args.steps,
            peak_learning_rate=args.learning_rate,
            weight_decay=1e-3,
            fingerprint={"frames": len(starts.pixels) + len(later.pixels), "seed": args.seed},
            seed=args.seed,
            name=f"{args.task} eyes",
        )
        round_weights(whole.to("cpu"))  # what everything after is trained with is what ships
        if processes.is_first():
            save_component(whole, out / "eyes")
    return out


def degraded(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Frames as other cameras, or compressed films, show them; about half stay as they are.

    Colour loses resolution, as in 4:2:0 video, the picture is blurred, brightness and colours shift
    a little, and noise is added. Eyes that draw the true frame from such a one (a denoising
    autoencoder: Vincent et al., 2008) have codes that hardly depend on all that.

    Args:
        frames: `(B, 3, H, W)` uint8, on the CPU.
        generator: What is drawn from.

    Returns:
        The same shape and dtype.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(len(frames), *shape, generator=generator)
        return low + (high - low) * drawn

    pixels = to_float(frames)
    grey = pixels.mean(dim=1, keepdim=True)
    halved = F.interpolate(F.avg_pool2d(pixels - grey, 2), scale_factor=2, mode="bilinear")
    pixels = torch.lerp(pixels, grey + halved, uniform(0, 1, 1, 1, 1))
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels = torch.lerp(pixels, blurred, uniform(0, 0.5, 1, 1, 1))
    pixels = pixels * uniform(0.95, 1.05, 1, 1, 1) + uniform(-0.04, 0.04, 3, 1, 1)
    noise = torch.randn(pixels.shape, generator=generator)
    pixels = pixels + uniform(0, 0.04, 1, 1, 1) * noise
    return torch.where(uniform(0, 1, 1, 1, 1) < 0.5, to_uint8(pixels), frames)


def whitening(difference: Tensor) -> Tensor:
    """The `(3, 3)` matrix that makes the colours of `(N, 3, H, W)` vary alike, by as much as their
    mean deviation."""
    colours = difference.transpose(0, 1).flatten(1)
    variance, axes = torch.linalg.eigh(colours @ colours.T / colours.shape[1])
    deviation = variance.clamp(min=1e-6).sqrt()
    return (axes / deviation) @ axes.T * deviation.mean()


def main() -> None:
    """Runs the command line."""
    one_thread()
    train(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
