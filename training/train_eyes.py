"""Trains the eyes: an autoencoder of start frames, and of frames of episodes.

    python -m training.train_eyes --episodes data/episodes --out runs/eyes

No label goes in. Start frames are cheap (a reset each) and many; frames of episodes teach the eyes
to look past the robot, whose state the decoder is given.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from training import command
from training.collect_episodes import load_start_frames
from training.episodes import load_episodes
from training.locks import locked
from training.loop import fit
from training.settings import keep_settings, require_above, require_at_least, require_within
from world4rl_gym.components import round_weights, save_component
from world4rl_gym.eyes import Eyes
from world4rl_gym.pixels import channels_first, to_float

LOSS_SCALE = 20.0
"""Brings the pixels' squared error to the order of 1."""
SMALL = 0.03
"""Deviation, of pixels in [-1, 1], at which a pixel of a start frame counts most."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.train_eyes`.

    Attributes:
        tasks: Tasks to learn from.
        episodes: Folder of episodes and start frames.
        out: Folder of the run; the eyes appear in its `eyes`.
        code_size: Numbers in a code.
        width: Channels of the encoder.
        steps: Optimiser steps.
        batch_size: Frames a step.
        later_share: Share of a batch that are frames of episodes, not start frames.
        learning_rate: AdamW's, after the warm-up.
        seed: Seed of weights and batches.
        device: Where to train.
    """

    tasks: tuple[str, ...]
    episodes: Path = Path("data/episodes")
    out: Path = Path("runs/eyes")
    code_size: int = 24
    width: int = 32
    steps: int = 3000
    batch_size: int = 64
    later_share: float = 0.4
    learning_rate: float = 2e-3
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_at_least(self, 1, "code_size", "steps", "batch_size")
        require_within(self, 0, 0.9, "later_share")
        require_above(self, 0, "learning_rate")


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames to reconstruct.

    Attributes:
        pixels: `(N, 3, H, W)` uint8.
        state: `(N, S)` float32, the robot's standardised state.
        task_ids: `(N,)` int64.
    """

    pixels: Tensor
    state: Tensor
    task_ids: Tensor


def load_frames(args: Args) -> tuple[Frames, Frames]:
    """Loads start frames and frames of episodes; the latter standardise the robot states."""
    starts, later = [], []
    for task_id, task in enumerate(args.tasks):
        first = load_start_frames(args.episodes, task, "train")
        starts.append((first.frames, first.state, task_id))
        for episode in load_episodes(args.episodes, "train", [task]):
            if episode.is_drawn:
                state = episode.state
                if state is None:
                    state = np.zeros((len(episode.frames), 0), np.float32)
                later.append((episode.frames, state, task_id))
    seen = np.concatenate([state for _, state, _ in later])
    mean, deviation = seen.mean(axis=0), seen.std(axis=0).clip(1e-4)

    def gather(parts: list[tuple[np.ndarray, np.ndarray, int]]) -> Frames:
        ids = np.concatenate([np.full(len(frames), i) for frames, _, i in parts])
        state = (np.concatenate([state for _, state, _ in parts]) - mean) / deviation
        return Frames(
            channels_first(torch.from_numpy(np.concatenate([frames for frames, _, _ in parts]))),
            torch.from_numpy(state.astype(np.float32)),
            torch.from_numpy(ids),
        )

    return gather(starts), gather(later)


def train(args: Args) -> Path:
    """Trains the eyes; the same command goes on where it was stopped.

    Returns:
        The folder that holds `eyes`.

    Raises:
        EpisodeError: Frames are missing or broken.
        SettingsError, RunError: The folder belongs to another run.
    """
    starts, later = load_frames(args)
    mean = torch.stack(
        [starts.pixels[starts.task_ids == i].float().mean(0) for i in range(len(args.tasks))]
    )
    mean = (mean / 127.5 - 1).to(args.device)
    weight = torch.stack(
        [_pixel_weights(starts.pixels[starts.task_ids == i]) for i in range(len(args.tasks))]
    ).to(args.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        eyes = Eyes(
            frame_size=starts.pixels.shape[-1],
            code_size=args.code_size,
            state_size=starts.state.shape[1],
            width=args.width,
        ).to(args.device)
    from_later = round(args.batch_size * args.later_share)

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(
            len(starts.pixels), (args.batch_size - from_later,), generator=generator
        )
        others = torch.randint(len(later.pixels), (from_later,), generator=generator)
        pixels, state, ids = (
            torch.cat([getattr(starts, name)[rows], getattr(later, name)[others]]).to(args.device)
            for name in ("pixels", "state", "task_ids")
        )
        assert isinstance(model, Eyes)
        wrong = model.decode(model.encode(pixels), state) + mean[ids] - to_float(pixels)
        first, other = wrong.split([len(rows), from_later])
        first = first * weight[ids[: len(rows)]]
        return LOSS_SCALE * (first.square().sum() + other.square().sum()) / wrong.numel()

    with locked(args.out):
        keep_settings(args, args.out, ("device", "episodes"))
        fit(
            eyes,
            loss,
            args.out,
            steps=args.steps,
            peak_learning_rate=args.learning_rate,
            weight_decay=1e-3,
            fingerprint={"frames": len(starts.pixels) + len(later.pixels), "seed": args.seed},
            seed=args.seed,
            name="eyes",
        )
        round_weights(eyes.to("cpu"))  # what everything after is trained with is what ships
        save_component(eyes, args.out / "eyes")
    return args.out


def _pixel_weights(frames: Tensor) -> Tensor:
    """How much each pixel of a task's start frames counts, `(1, H, W)`.

    What is small moves few pixels a little; weighted by their own deviation they count as much as
    those of large things. Pixels that never change count little, else their noise would rule.
    """
    pixels = frames.float() / 127.5
    deviation = pixels.var(dim=0).mean(dim=0, keepdim=True).sqrt()
    weight = (deviation / SMALL).clamp(max=1) * (SMALL / (deviation + SMALL)) ** 1.5 + SMALL
    scale = pixels.var(dim=0).mean() / (weight * deviation).square().mean()
    return weight * scale.sqrt()


def main() -> None:
    """Runs the command line."""
    train(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
