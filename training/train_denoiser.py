"""Trains the denoiser to draw frames out of codes and robot states.

    python -m training.train_denoiser --tasks hammer soccer --eyes runs/eyes --out runs/denoiser

Frames of drawn episodes are noised and denoised, given their own code, robot state and the
episode's first frame; no memory is needed, so this trains beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from training.data.frame_file import checksum, map_frames
from training.data.sequences import codes_of
from training.data.trainable import iterate_trainable
from training.runs import command, processes
from training.runs.locks import locked
from training.runs.loop import fit
from training.runs.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    Share,
    keep_settings,
)
from training.world_model.assembly import load_task_eyes
from world4rl_gym.components import check_size, load_component, save_component
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.episodes import EpisodeError
from world4rl_gym.pixels import to_float
from world4rl_gym.scheduler import SchedulerConfig


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.train_denoiser`.

    Attributes:
        tasks: Tasks to learn from.
        episodes: Folder of episodes.
        eyes: Folder of each task's eyes; "{task}" stands for its name.
        out: Folder of the run; the denoiser appears in its `denoiser`.
        init: Folder of a denoiser to begin with, as where the eyes changed; None begins anew.
        steps: Optimiser steps.
        batch_size: Frames a step.
        learning_rate: AdamW's, after the warm-up.
        width: Channels.
        condition_blocks: Residual blocks computed once a frame.
        denoise_blocks: Residual blocks of a denoising step.
        code_noise: Deviation added to the codes, for the memory's are not exact.
        log_sigma_mean: Mean of the logarithm of the noise level.
        log_sigma_deviation: Its deviation.
        ema: Decay of the average of the weights.
        checkpoint_every: Steps between checkpoints.
        seed: Seed of weights and batches.
        device: Where to train.
    """

    tasks: tuple[str, ...]
    episodes: Path = Path("data/episodes")
    eyes: Path = Path("runs/eyes/{task}")
    out: Path = Path("runs/denoiser")
    init: Path | None = None
    steps: PositiveInt = 8000
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    width: PositiveInt = 64
    condition_blocks: NonNegativeInt = 2
    denoise_blocks: NonNegativeInt = 1
    code_noise: NonNegativeFloat = 0.02
    log_sigma_mean: float = 0.0
    log_sigma_deviation: PositiveFloat = 1.6
    ema: Share = 0.999
    checkpoint_every: PositiveInt = 500
    seed: NonNegativeInt = 0
    device: str = "cpu"


@dataclasses.dataclass(frozen=True)
class DrawnFrames:
    """Frames of N episodes, one after another.

    Attributes:
        pixels: `(F, 3, H, W)` uint8.
        code: `(F, K)` float32.
        state: `(F, S)` float32.
        first: `(F,)` int64, the index of the episode's first frame.
    """

    pixels: Tensor
    code: Tensor
    state: Tensor
    first: Tensor


def load_drawn_frames(episodes: Path, tasks: Sequence[str], eyes: Path, out: Path) -> DrawnFrames:
    """The frames of all drawn training episodes, mapped in `out`, with codes and robot states.

    Raises:
        EpisodeError: There are none, or a file is broken.
    """
    of_task = [(load_task_eyes(eyes, task), iterate_trainable(episodes, task)) for task in tasks]
    states: list[np.ndarray] = []
    codes: list[Tensor] = []
    first: list[np.ndarray] = []

    def frames() -> Iterator[np.ndarray]:
        count = 0
        for own, drawn in of_task:
            for episode in drawn:
                if episode.is_drawn:
                    codes.append(codes_of(own, episode.frames))
                    empty = np.zeros((len(episode.frames), 0), np.float32)
                    states.append(empty if episode.state is None else episode.state)
                    first.append(np.full(len(episode.frames), count))
                    count += len(episode.frames)
                    yield episode.frames
        if not count:
            raise EpisodeError(
                f"{episodes}: expected train episodes with all their frames, got none"
            )

    pixels = map_frames(out, frames())
    return DrawnFrames(
        pixels,
        torch.cat(codes),
        torch.from_numpy(np.concatenate(states)),
        torch.from_numpy(np.concatenate(first)),
    )


def residual_scale(data: DrawnFrames, sigma_data: float) -> float:
    """Deviation of frames' differences from the first, over `sigma_data`."""
    # At random: every N-th frame may be the first of its episode, which differs from itself by 0.
    rows = torch.randint(len(data.pixels), (2000,), generator=torch.Generator().manual_seed(0))
    difference = to_float(data.pixels[rows]) - to_float(data.pixels[data.first[rows]])
    return round(float(difference.std()) / sigma_data, 6)


def train_denoiser(args: Args, data: DrawnFrames) -> Denoiser:
    """Trains a denoiser on drawn frames; goes on where it was stopped.

    The loss is EDM's (Karras et al., arXiv 2206.00364), weighted so that the network's output error
    counts alike at every noise level.
    """
    config = SchedulerConfig()
    scheduler = config.make()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        denoiser = Denoiser(
            frame_size=data.pixels.shape[-1],
            code_size=data.code.shape[1],
            state_size=data.state.shape[1],
            width=args.width,
            condition_blocks=args.condition_blocks,
            denoise_blocks=args.denoise_blocks,
            residual_scale=residual_scale(data, config.sigma_data),
        )
    check_size(denoiser)
    if args.init is not None:
        denoiser = load_component(args.init, "denoiser", Denoiser, DenoiserConfig)
        denoiser.requires_grad_(True)
    denoiser.state_mean.copy_(data.state.mean(dim=0))
    denoiser.state_std.copy_(data.state.std(dim=0, correction=0).clamp(min=1e-4))
    denoiser.to(args.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    scale = float(denoiser.config.residual_scale)

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        rows = torch.randint(len(data.pixels), (args.batch_size,), generator=generator)
        rows = rows[processes.share(args.batch_size)]
        first = data.first[rows]
        parts = data.pixels[rows], data.pixels[first], data.code[rows], data.code[first]
        return tuple(part.to(args.device) for part in (*parts, data.state[rows]))

    def loss(
        model: nn.Module, batch: tuple[Tensor, ...], step: int, generator: torch.Generator
    ) -> Tensor:
        assert isinstance(model, Denoiser)
        pixels, anchors, code, first_code, state = batch
        # The draws are made where they are used: a GPU would wait for the CPU's.
        own_seed = int(torch.randint(2**62, (), generator=generator))
        draws = torch.Generator(args.device).manual_seed(own_seed)
        own = processes.share(args.batch_size)

        def normal(*shape: int) -> Tensor:
            return torch.randn(args.batch_size, *shape, generator=draws, device=args.device)[own]

        noise, blur = normal(*data.pixels.shape[1:]), normal(data.code.shape[1])
        sigma = (normal() * args.log_sigma_deviation + args.log_sigma_mean).exp()
        anchor = to_float(anchors)
        residual = (to_float(pixels) - anchor) / scale
        sigma = sigma.clamp(config.sigma_min / 2, config.sigma_max)
        column = sigma.view(-1, 1, 1, 1)
        noisy = residual + column * noise
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=args.device != "cpu"):
            blurred = code + args.code_noise * blur
            condition = model.condition(anchor, first_code, blurred, state)
            output = model(
                scheduler.precondition_inputs(noisy, column),
                scheduler.precondition_noise(sigma),
                condition,
            )
        denoised = scheduler.precondition_outputs(noisy, output.float(), column)
        data_variance = config.sigma_data**2
        weight = (column**2 + data_variance) / (column**2 * data_variance)
        return (weight * (denoised - residual).square()).mean()

    trained = fit(
        denoiser,
        draw,
        loss,
        args.out,
        steps=args.steps,
        peak_learning_rate=args.learning_rate,
        fingerprint={"data": checksum(data.pixels), "seed": args.seed, "steps": args.steps},
        checkpoint_every=args.checkpoint_every,
        ema=args.ema,
        seed=args.seed,
        name="denoiser",
    )
    assert isinstance(trained, Denoiser)
    return trained.to("cpu")


def run(args: Args) -> Path:
    """Loads the frames, trains, and saves the denoiser.

    Returns:
        The folder that holds `denoiser`.

    Raises:
        EpisodeError: Episodes are missing or broken.
        SettingsError, RunError: The folder belongs to another run.
    """
    data = load_drawn_frames(args.episodes, args.tasks, args.eyes, args.out)
    with locked(args.out, several=True):
        keep_settings(args, args.out, ("device", "episodes", "eyes", "checkpoint_every"))
        denoiser = train_denoiser(args, data)
        if processes.is_first():
            save_component(denoiser, args.out / "denoiser")
    return args.out


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
