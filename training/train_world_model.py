"""Trains the diffusion world model's denoiser on episodes.

    python -m training.train_world_model --episodes data/episodes --out runs/denoiser
    accelerate launch -m training.train_world_model ...      # several GPUs or machines

The same command goes on from the newest checkpoint. All randomness of a step is a function of the
seed and the step, so that an interrupted run ends with the very weights of an uninterrupted one.
The first part of training predicts one frame from true context; in the rest the context is what the
network itself predicted before (`streams.py`), which limits drift. Knows nothing of rewards and of
policies.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training import command
from training.averaging import update_ema
from training.checkpoints import Checkpoints, LossGuard, StopRequest
from training.episodes import BEHAVIOURS, load_episodes, require_disjoint
from training.locks import locked
from training.pictures import save_comparison, save_loss_curve
from training.settings import (
    SettingsError,
    keep_settings,
    require_above,
    require_at_least,
    require_below_one,
    require_within,
)
from training.streams import StreamBatch, Streams
from training.windows import Windows
from world4rl_gym.components import load_component, save_component
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.pixels import to_float, to_uint8
from world4rl_gym.scheduler import EulerScheduler


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.train_world_model`.

    Attributes:
        out: Folder of checkpoints, logs, pictures and, at the end, `denoiser/`.
        episodes: Folder of episodes.
        tasks: Tasks to train on; none given means all found.
        behaviours: Who acted in the episodes to train on; none given means anybody.
        steps: Optimizer steps of the schedule.
        until: Finish after this many of them; none given means all.
        batch_size: Frames predicted a step, over all processes.
        streams: Rollouts under way from which a step draws its batch, over all processes.
        stream_length: Mean number of frames that a stream imagines before it begins anew.
        streams_from: Fraction of training after which streams go on with what was imagined.
        learning_rate: AdamW's peak; a linear warm-up, then a cosine down to zero.
        warmup: Steps of warm-up.
        weight_decay: AdamW's.
        ema: Decay of the averaged weights, which are the ones that ship.
        log_sigma_mean: Mean of the training noise levels' logarithm.
        log_sigma_deviation: Its deviation.
        init: Folder that holds the `denoiser/` whose weights training begins from; none given
            begins from random ones.
        channels: Width of each level of the U-Net.
        layers_per_block: Residual blocks a level.
        patch_size: Side of the patches that become channels.
        precision: "bf16" or "no", as Accelerate names them.
        checkpoint_every: Steps between checkpoints.
        picture_every: Steps between side-by-side pictures; 0 makes none.
        skip_bad: Leave broken episode files out, and say how many, rather than refuse.
        seed: Seed of weights, batches and noise.
    """

    out: Path
    episodes: Path = Path("data/episodes")
    tasks: tuple[str, ...] = ()
    behaviours: tuple[str, ...] = ()
    steps: int = 34000
    until: int | None = None
    batch_size: int = 32
    streams: int = 256
    stream_length: float = 8.0
    streams_from: float = 0.15
    learning_rate: float = 8e-4
    warmup: int = 200
    weight_decay: float = 1e-2
    ema: float = 0.998
    log_sigma_mean: float = 4.0
    log_sigma_deviation: float = 0.6
    init: Path | None = None
    channels: tuple[int, ...] = (64, 128)
    layers_per_block: int = 2
    patch_size: int = 4
    precision: str = "bf16"
    checkpoint_every: int = 500
    picture_every: int = 1000
    skip_bad: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(
            self, 1, "steps", "batch_size", "streams", "stream_length", "checkpoint_every"
        )
        require_at_least(self, 0, "picture_every", "warmup", "weight_decay")
        if self.until is not None:
            require_at_least(self, 1, "until")
        require_above(self, 0, "learning_rate", "log_sigma_deviation")
        if self.streams < self.batch_size:
            raise ValueError(
                f"streams: expected at least batch_size ({self.batch_size}), got {self.streams}"
            )
        require_within(self, 0, 1, "streams_from")
        for behaviour in self.behaviours:
            if behaviour not in BEHAVIOURS:
                raise ValueError(f"behaviours: expected {', '.join(BEHAVIOURS)}, got {behaviour!r}")
        require_below_one(self, "ema")


class DenoisingLoss(nn.Module):
    """The denoiser's loss as a module of its own, which is what several processes can share."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """As `Denoiser.loss`."""
        loss: tuple[Tensor, Tensor] = self.denoiser.loss(*inputs)
        return loss


@dataclasses.dataclass
class StepInputs:
    """Everything random of one step.

    Attributes:
        batch: The streams drawn.
        sigma: `(B,)` noise levels.
        noise: `(B, 3, H, W)` standard normal.
        stream_length: Mean length of a stream at this step.
        generator: Draws which streams end, once their next frames are predicted.
    """

    batch: StreamBatch
    sigma: Tensor
    noise: Tensor
    stream_length: float
    generator: torch.Generator


def step_generator(args: Args, step: int, process: int) -> torch.Generator:
    """The source of a step's randomness; a function of seed, step and process."""
    return torch.Generator().manual_seed((args.seed * 100_003 + step) * 1009 + process)


def draw_step(args: Args, streams: Streams, step: int, process: int, processes: int) -> StepInputs:
    """Draws a step's streams, noise levels and noise; a function of seed, step and process."""
    generator = step_generator(args, step, process)
    batch = streams.draw(max(1, args.batch_size // processes), generator)
    normal = torch.randn(len(batch.rows), generator=generator)
    sigma = (normal * args.log_sigma_deviation + args.log_sigma_mean).exp().clamp(2e-3, 80)
    noise = torch.randn(batch.target.shape, generator=generator)
    length = 1.0 if step < args.streams_from * args.steps else args.stream_length
    return StepInputs(batch, sigma, noise, length, generator)


def learning_rate(args: Args, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero at the last step."""
    if step < args.warmup:
        return args.learning_rate * (step + 1) / args.warmup
    progress = (step - args.warmup) / max(1, args.steps - args.warmup)
    return args.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def train(args: Args) -> Path:
    """Trains to the end, or to the first SIGTERM or Ctrl-C.

    Returns:
        The folder of the finished denoiser.

    Raises:
        EpisodeError: Episodes are missing or broken.
        SettingsError, RunError: The folder belongs to another run, or the loss is NaN several steps
            in a row.
        InUseError: Another process is training into the folder.
        SystemExit: The run was stopped by a signal, after a checkpoint.
    """
    accelerator = Accelerator(mixed_precision=args.precision)
    main_process = accelerator.is_main_process
    episodes = load_episodes(
        args.episodes,
        "train",
        args.tasks or None,
        args.behaviours or BEHAVIOURS,
        skip_bad=args.skip_bad,
    )
    held_out = (
        load_episodes(args.episodes, "validation", args.tasks or None, skip_bad=args.skip_bad)
        if args.picture_every
        else []
    )
    require_disjoint({"train": episodes, "validation": held_out})
    config = DenoiserConfig(
        frame_size=episodes[0].frames.shape[1],
        action_size=episodes[0].actions.shape[1],
        channels=args.channels,
        layers_per_block=args.layers_per_block,
        patch_size=args.patch_size,
    )
    windows = Windows(episodes, config.context_length)
    config = dataclasses.replace(
        config, residual_scale=round(windows.residual_deviation() / config.sigma_data, 6)
    )
    torch.manual_seed(args.seed)
    denoiser = Denoiser(config)
    if args.init:
        first = load_component(args.init, "denoiser", Denoiser, DenoiserConfig)
        if first.config != dataclasses.replace(config, residual_scale=first.config.residual_scale):
            raise SettingsError(f"{args.init}: config: expected {config}, got {first.config}")
        denoiser = Denoiser(first.config)
        denoiser.load_state_dict(first.state_dict())
    denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = copy.deepcopy(denoiser).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay, fused=True
    )
    with locked(args.out / f"process-{accelerator.process_index}"):
        if main_process:
            keep_settings(args, args.out, leave_out=("until",))
        process, processes = accelerator.process_index, accelerator.num_processes
        fingerprint = {"data": windows.fingerprint(), "processes": processes, **_plain(args)}
        checkpoints = Checkpoints(args.out / "checkpoints", fingerprint)
        streams = Streams(
            windows, max(1, args.streams // processes), step_generator(args, args.steps, process)
        )
        state = checkpoints.load_newest()
        step = 0
        if state:
            step = state["step"]
            denoiser.load_state_dict(state["model"])
            ema.load_state_dict(state["ema"])
            optimizer.load_state_dict(state["optimizer"])
            streams.load_state_dict(_share(state["streams"], process, processes))
            accelerator.print(f"resuming at step {step} of {args.steps}")
        ema.to(accelerator.device)
        loss_module, optimizer = accelerator.prepare(DenoisingLoss(denoiser), optimizer)
        parameters = sum(p.numel() for p in denoiser.parameters())
        accelerator.print(
            f"{len(episodes)} episodes, {len(windows.frames)} frames, {parameters / 1e6:.2f} M "
            f"parameters, residual scale {config.residual_scale:.4f}, {accelerator.device}"
        )
        log = _Log(args.out, step) if main_process else None
        bar = tqdm(
            total=args.steps,
            initial=step,
            unit="step",
            desc="world model",
            disable=not main_process,
            mininterval=1.0,
        )
        guard = LossGuard(args.seed)
        last = args.steps if args.until is None else min(args.steps, args.until)
        with StopRequest() as stop:
            while step < last:
                inputs = draw_step(args, streams, step, process, processes)
                loss, predicted = _optimize(
                    accelerator, loss_module, optimizer, inputs, learning_rate(args, step)
                )
                if guard.accepts(step, loss):
                    update_ema(ema, denoiser, args.ema, step)
                    streams.advance(inputs.batch, predicted, inputs.stream_length, inputs.generator)
                step += 1
                bar.update()
                if log:
                    log.write(step, loss, learning_rate(args, step))
                    if step % 20 == 0:
                        bar.set_postfix(loss=f"{log.average:.4f}")
                # The processes agree on whether to stop, since each holds streams of its own.
                signal = _largest(accelerator, stop.signal or 0) if not guard.bad else 0
                due = step % args.checkpoint_every == 0 or step == last or signal
                if due and not guard.bad:
                    gathered = accelerator.gather(_moved(streams.state_dict(), accelerator.device))
                    if main_process:
                        checkpoints.save(
                            step,
                            {
                                "model": denoiser.state_dict(),
                                "ema": ema.state_dict(),
                                "optimizer": optimizer.state_dict(),
                                "streams": _moved(gathered, torch.device("cpu")),
                            },
                        )
                if signal:
                    accelerator.print(
                        f"stopped at step {step}; the same command goes on from there"
                    )
                    raise SystemExit(128 + signal)
                if log and held_out and step % args.picture_every == 0:
                    path = args.out / "pictures" / f"step-{step:06d}.png"
                    image = save_comparison(ema, EulerScheduler(), held_out, path)
                    log.tensorboard.add_image("rollout", image, step, dataformats="HWC")
        if main_process:
            save_component(ema, args.out / "denoiser")
            save_loss_curve(args.out / "losses.csv", args.out / "losses.png")
            accelerator.print(f"done: {args.out / 'denoiser'}")
    return args.out / "denoiser"


def _optimize(
    accelerator: Accelerator,
    loss_module: nn.Module,
    optimizer: Any,
    inputs: StepInputs,
    rate: float,
) -> tuple[float, Tensor]:
    """One optimizer step, skipped where the loss is not finite: the loss, and what it predicted."""
    device = accelerator.device
    for group in optimizer.param_groups:
        group["lr"] = rate
    batch = inputs.batch
    with accelerator.autocast():
        loss, predicted = loss_module(
            inputs.noise.to(device),
            inputs.sigma.to(device),
            to_float(batch.target.to(device)),
            to_float(batch.anchor.to(device)),
            to_float(batch.context.to(device)),
            batch.actions.to(device),
        )
    optimizer.zero_grad()
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(loss_module.parameters(), 1.0)
    value = float(accelerator.reduce(loss.detach(), "mean"))
    if not math.isfinite(float(norm)):
        value = float("nan")
    if math.isfinite(value):
        optimizer.step()
    return value, to_uint8(predicted).cpu()


def _largest(accelerator: Accelerator, value: int) -> int:
    """The largest of the processes' values."""
    return int(accelerator.gather(torch.tensor([value], device=accelerator.device)).max())


def _moved(state: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in state.items()}


def _share(state: dict[str, Tensor], process: int, processes: int) -> dict[str, Tensor]:
    """One process's rows of what all of them gathered."""
    return {name: tensor.chunk(processes)[process] for name, tensor in state.items()}


class _Log:
    """Losses as `losses.csv` (cut back to the resumed step) and for TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "losses.csv"
        kept = path.read_text().splitlines()[1 : step + 1] if path.exists() else []
        partial = path.with_suffix(".partial")
        partial.write_text("\n".join(["step,loss,learning_rate,seconds", *kept]) + "\n")
        os.replace(partial, path)
        self._file = open(path, "a", newline="")  # noqa: SIM115 - lives as long as the run
        self._csv = csv.writer(self._file)
        self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self._began = time.monotonic()
        self.average = float("nan")

    def write(self, step: int, loss: float, rate: float) -> None:
        """Appends one step."""
        if math.isfinite(loss):
            young = math.isnan(self.average)
            self.average = loss if young else 0.99 * self.average + 0.01 * loss
        seconds = time.monotonic() - self._began
        self._csv.writerow([step, repr(loss), f"{rate:.3e}", f"{seconds:.1f}"])
        self._file.flush()  # a kill must not lose the rows before a checkpoint
        if step % 20 == 0:
            self.tensorboard.add_scalar("loss", loss, step)
            self.tensorboard.add_scalar("learning_rate", rate, step)


def _plain(args: Args) -> dict[str, Any]:
    """The settings that make a run what it is; not where and how often it saves."""
    ignored = {"out", "episodes", "until", "checkpoint_every", "picture_every", "skip_bad"}
    values = {k: v for k, v in dataclasses.asdict(args).items() if k not in ignored}
    values["init"] = None if args.init is None else str(args.init)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def main() -> None:
    """Runs the command line."""
    train(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
