"""How a memory is made and trained: on whole episodes, open loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.sequences import Sequences, join
from training.evaluation.metrics import auroc
from training.runs import processes
from training.runs.loop import fit
from world4rl_gym.episodes import EpisodeError
from world4rl_gym.memory import MemoryConfig, MemoryState, TaskMemory

STATE_BETA = 0.2
"""Where smooth L1 turns from square to linear, in decisions' worth of motion."""


@dataclasses.dataclass(frozen=True)
class MemoryRun:
    """How a memory is trained.

    Attributes:
        steps: Optimiser steps.
        learning_rate: AdamW's, after the warm-up.
        batch_size: Episodes a step.
        seed: Seed of weights and batches.
        state_weight: Weight of the robot state's error.
        code_weight: Weight of the code's error.
        open_loop: Whether it goes on from its own robot states; False gives it the true ones.
    """

    steps: int = 2500
    learning_rate: float = 2e-3
    batch_size: int = 64
    seed: int = 0
    state_weight: float = 2.0
    code_weight: float = 2.0
    open_loop: bool = True


def make_memory(sequences: Sequences, members: int, width: int, seed: int) -> TaskMemory:
    """A new memory that fits the sequences' sizes, units and command rule."""
    config = MemoryConfig(
        members=members,
        action_size=sequences.actions.shape[2],
        state_size=sequences.state.shape[2],
        command_size=sequences.command.shape[2],
        code_size=sequences.first_code.shape[1],
        width=width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory = TaskMemory(config)
    inside = sequences.mask.bool()
    if config.state_size:
        motion = (sequences.state[:, 1:] - sequences.state[:, :-1])[inside]
        memory.state_origin.copy_(sequences.state[:, 0].mean(dim=0))
        memory.state_step.copy_(motion.std(dim=0).clamp(min=1e-4))
    for name, values in command_rule(sequences).items():
        getattr(memory, name).copy_(values)
    return memory


def command_rule(sequences: Sequences) -> dict[str, Tensor]:
    """How an action changes the command: `keep * command + gain * action + offset`, clipped.

    Fitted by least squares to the decisions at which nothing is clipped. Command j depends on
    itself and on action j, as in control by displacements (keep 1) and by targets (keep 0).

    Raises:
        EpisodeError: A command is not such a function.
    """
    inside = sequences.mask.bool()
    before, after = sequences.command[:, :-1][inside], sequences.command[:, 1:][inside]
    actions = sequences.actions[inside]
    size = before.shape[1]
    names = ("keep", "gain", "offset", "low", "high")
    rule = {f"command_{name}": torch.zeros(size) for name in names}
    for j in range(size):
        low, high = float(after[:, j].min()), float(after[:, j].max())
        edge = 1e-4 * (high - low)
        if high == low:  # never commanded anywhere else
            for name in ("command_offset", "command_low", "command_high"):
                rule[name][j] = low
            continue
        free = (after[:, j] > low + edge) & (after[:, j] < high - edge)
        if not bool(free.any()):  # opened or closed, nothing between
            free = torch.ones_like(free)
        known = torch.stack([before[:, j], actions[:, j], torch.ones(len(before))], dim=1).double()
        weights = torch.linalg.lstsq(known[free], after[free, j].double()).solution
        error = known @ weights - after[:, j]
        if float(error[free].abs().quantile(0.99)) > 0.02 * float(after[:, j].std()):
            raise EpisodeError(
                f"command: component {j} is not a function of itself and of action {j}; leave the "
                "commands out"
            )
        far = 10 * (high - low)
        clipped = 10 * edge
        rule["command_keep"][j], rule["command_gain"][j], rule["command_offset"][j] = weights
        rule["command_low"][j] = low if bool((error < -clipped).any()) else low - far
        rule["command_high"][j] = high if bool((error > clipped).any()) else high + far
    return rule


def unroll(
    memory: TaskMemory, sequences: Sequences, length: int | None = None, open_loop: bool = True
) -> MemoryState:
    """The memory along sequences: what it predicts is stacked, `(B, T, ...)`.

    Args:
        memory: The memory.
        sequences: B episodes.
        length: Decisions T; None takes all.
        open_loop: Whether each step goes on from the predicted robot's state; else from the true
            one.
    """
    length = length or sequences.actions.shape[1]
    now = memory.begin(sequences.first_code, sequences.state[:, 0], sequences.command[:, 0])
    states = []
    for t in range(length):
        now = memory.step(now, sequences.actions[:, t], sequences.command[:, t + 1])
        states.append(now)
        if not open_loop:
            true = sequences.state[:, t : t + 2, None].expand(-1, -1, now.state.shape[1], -1)
            now = now._replace(state=true[:, 1], velocity=true[:, 1] - true[:, 0])
    kept = ("state", "code_change", "logit")
    return now._replace(**{k: torch.stack([getattr(s, k) for s in states], 1) for k in kept})


@torch.no_grad()
def judged(memory: TaskMemory, sequences: Sequences) -> dict[str, float]:
    """How well the memory predicts outcomes: AUROC, agreement, imagined and true success."""
    best = unroll(memory, sequences).logit.sigmoid().mean(dim=2) * sequences.mask
    score = best.amax(dim=1).numpy()
    truth = sequences.outcome.numpy()
    said = score >= 0.5
    return {
        "auroc": round(float(auroc(score, truth)), 4),
        "agreement": round(float((said == truth).mean()), 4),
        "imagined": round(float(said.mean()), 4),
        "real": round(float(truth.mean()), 4),
    }


def memory_loss(memory: TaskMemory, batch: Sequences, length: int, run: MemoryRun) -> Tensor:
    """The loss over the first `length` decisions: success, robot state and code."""
    predicted = unroll(memory, batch, length, run.open_loop)
    mask = batch.mask[:, :length]
    success = batch.success[:, :length, None].expand_as(predicted.logit)
    weight = mask[:, :, None]
    total = mask.sum() * memory.config.members
    wrong = F.binary_cross_entropy_with_logits(predicted.logit, success, weight, reduction="sum")
    loss = 2 * wrong / total
    if memory.config.state_size:
        truth = batch.state[:, 1 : length + 1, None].expand_as(predicted.state)
        wrong = F.smooth_l1_loss(
            predicted.state / memory.state_step,
            truth / memory.state_step,
            reduction="none",
            beta=STATE_BETA,
        )
        loss = loss + run.state_weight * (weight * wrong.mean(dim=3)).sum() / total
    if run.code_weight:
        truth = batch.code_change[:, :length, None].expand_as(predicted.code_change)
        wrong = F.smooth_l1_loss(predicted.code_change, truth, reduction="none", beta=STATE_BETA)
        drawn = weight * batch.drawn[:, None, None]
        seen = (drawn.sum() * memory.config.members).clamp(min=1)
        loss = loss + run.code_weight * (drawn * wrong.mean(dim=3)).sum() / seen
    return loss


def train_memory(
    memory: TaskMemory,
    groups: Sequence[tuple[Sequences, float]],
    run: MemoryRun,
    out: Path,
    name: str = "memory",
) -> TaskMemory:
    """Trains a memory.

    Args:
        memory: A new one, or one to go on with; trained in place.
        groups: Sets of sequences, each with its share of every batch; shares add up to 1.
        run: How.
        out: Folder of checkpoints and losses.
        name: Of the progress bar.
    """
    horizon = groups[0][0].actions.shape[1]

    def draw(generator: torch.Generator) -> Sequences:
        return draw_batch(groups, run.batch_size, generator).rows(processes.share(run.batch_size))

    def loss(model: nn.Module, batch: Sequences, step: int, generator: torch.Generator) -> Tensor:
        assert isinstance(model, TaskMemory)
        # Every other step sees the first half alone: twice as fast, and it is where things part.
        return memory_loss(model, batch, horizon if step % 2 else (horizon + 1) // 2, run)

    data = [[group.fingerprint(), share] for group, share in groups]
    trained = fit(
        memory,
        draw,
        loss,
        out,
        steps=run.steps,
        peak_learning_rate=run.learning_rate,
        fingerprint={"data": data, **dataclasses.asdict(run)},
        seed=run.seed,
        name=name,
    )
    assert isinstance(trained, TaskMemory)
    return trained


def draw_batch(
    groups: Sequence[tuple[Sequences, float]], size: int, generator: torch.Generator
) -> Sequences:
    """Draws a batch in which every group has its share."""
    parts, left = [], size
    for i, (group, share) in enumerate(groups):
        count = left if i == len(groups) - 1 else round(size * share)
        left -= count
        if count:
            parts.append(group.rows(torch.randint(len(group), (count,), generator=generator)))
    return parts[0] if len(parts) == 1 else join(parts)
