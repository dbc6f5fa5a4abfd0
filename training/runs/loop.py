"""The one training loop: warm-up and cosine, checkpoints, a stop between two steps, losses.

Knows optimisers and files; knows nothing of what is trained.
"""

from __future__ import annotations

import copy
import csv
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.runs import processes
from training.runs.averaging import update_ema
from training.runs.checkpoints import Checkpoints, RunError, StopRequest
from world4rl_gym.writing import write_whole

MOST_BAD_STEPS = 5
"""Steps in a row whose loss is not finite before a run ends."""

Draw = Callable[[torch.Generator], Any]
"""(generator) -> the data of one step."""
Loss = Callable[[nn.Module, Any, int, torch.Generator], Tensor]
"""(model, data, step, generator) -> the scalar loss; it draws from the generator alone."""


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to zero at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def fit(
    model: nn.Module,
    draw: Draw,
    loss: Loss,
    out: Path,
    *,
    steps: int,
    peak_learning_rate: float,
    fingerprint: dict[str, Any],
    warmup: int = 50,
    weight_decay: float = 1e-2,
    ema: float | None = None,
    seed: int = 0,
    checkpoint_every: int = 500,
    name: str = "train",
) -> nn.Module:
    """Trains a model to the end, or to the first SIGTERM or Ctrl-C; goes on where it was stopped.

    A step is a function of the weights, `seed` and its number: a run that was killed and resumed
    ends with the same weights, bit for bit. Several processes (`training.runs.processes`) end with
    those of one, but for the last bits, where a loss is a mean over its rows and draws nothing
    itself; the first process alone writes files.

    Args:
        model: Trained in place, on the device that it is on.
        draw: Draws the data of a step. What share of the time it takes is printed at the end; on a
            GPU that counts the GPU's last step too.
        loss: Gives the loss of a step; of several processes, that of this one's share of the rows.
        out: Folder of `checkpoints/` and `losses.csv`.
        steps: Optimiser steps.
        peak_learning_rate: AdamW's, after the warm-up.
        fingerprint: What the run is made of; checkpoints of another are refused.
        warmup: Steps of linear warm-up.
        weight_decay: AdamW's.
        ema: Decay of an average of the weights, which is then returned; None averages nothing.
        seed: Seed of all draws.
        checkpoint_every: Steps between checkpoints.
        name: Of the progress bar.

    Returns:
        The trained model, or its averaged copy, in evaluation mode.

    Raises:
        RunError: The folder belongs to another run, or the loss is not finite several steps in a
            row.
        SystemExit: The run was stopped by a signal, after a checkpoint.
    """
    average = copy.deepcopy(model).requires_grad_(False) if ema else None
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak_learning_rate, weight_decay=weight_decay
    )
    if processes.count() > 1 and next(model.parameters()).device.type != "cpu":
        raise RunError("device: several processes train on CPUs only")
    checkpoints = Checkpoints(out / "checkpoints", fingerprint)
    step = 0
    state = checkpoints.load_newest()
    processes.wait()  # nobody writes while another still reads
    if state:
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["ema"])
        print(f"resuming at step {step} of {steps}")
    first = processes.is_first()
    log = _Log(out / "losses.csv", step) if first else None
    bad = 0  # steps in a row, up to now, whose loss was not finite
    bar = tqdm(
        total=steps, initial=step, unit="step", desc=name, mininterval=2.0, disable=not first
    )
    model.train()
    began, waited = time.monotonic(), 0.0
    devices = [p.device for p in model.parameters() if p.device.type == "cuda"][:1]
    with StopRequest() as stop, torch.random.fork_rng(devices=devices):
        while step < steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak_learning_rate, warmup)
            torch.manual_seed(seed * 100_003 + step)  # dropout draws from the global generator
            generator = torch.Generator().manual_seed(seed * 100_003 + step)
            asked = time.monotonic()
            data = draw(generator)
            waited += time.monotonic() - asked
            value = loss(model, data, step, generator)
            optimizer.zero_grad()
            value.backward()
            processes.average_gradients(model)
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            number = processes.mean(float(value.detach())) if bool(norm.isfinite()) else math.nan
            if math.isfinite(number):
                bad = 0
                optimizer.step()
                if average is not None:
                    update_ema(average, model, ema or 0.0, step)
            else:
                bad += 1
                print(f"step {step}: the loss is {number}; the step is skipped")
                if bad == MOST_BAD_STEPS:
                    raise RunError(
                        f"the loss was not finite {bad} steps in a row, the last at step {step} "
                        f"(seed {seed}); nothing of it was saved"
                    )
            step += 1
            stopped = processes.total(stop.signal or 0)
            if log is not None:
                log.write(step, number)
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{number:.4f}")
            due = step % checkpoint_every == 0 or step == steps or stopped
            if due and first and not bad:
                checkpoints.save(
                    step,
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        **({} if average is None else {"ema": average.state_dict()}),
                    },
                )
            if stopped and not bad:
                print(f"stopped at step {step}; the same command goes on from there")
                processes.wait()  # the checkpoint is written
                raise SystemExit(128 + (stop.signal or signal.SIGTERM))
    bar.close()
    if first and waited:
        share = waited / (time.monotonic() - began)
        print(f"{name}: {100 * share:.1f} % of the time was spent on waiting for data")
    processes.wait()
    return (model if average is None else average).eval()


class _Log:
    """`losses.csv`, cut back to the resumed step."""

    def __init__(self, path: Path, step: int) -> None:
        kept = path.read_text().splitlines()[1 : step + 1] if path.exists() else []
        write_whole(path, ("\n".join(["step,loss", *kept]) + "\n").encode())
        self._file = open(path, "a", newline="")  # noqa: SIM115 - lives as long as the run
        self._csv = csv.writer(self._file)

    def write(self, step: int, loss: float) -> None:
        """Appends one step."""
        self._csv.writerow([step, repr(loss)])
        self._file.flush()  # a kill must not lose the rows before a checkpoint
