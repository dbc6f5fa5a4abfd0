"""Clones a Gaussian CNN policy from demonstrations by negative log-likelihood.

python -m training.clone_policy --task hammer --episodes data/episodes --out runs/clone/hammer
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import tyro
from torch.nn import functional as F
from tqdm import tqdm

from training import command
from training.episodes import Episode, EpisodeError, load_episodes
from training.locks import locked
from training.policy import GaussianCnnPolicy, actor_parameters, make_policy, save_policy
from training.policy_network import PolicyConfig
from training.settings import keep_settings, require_above, require_at_least
from world4rl_gym.pixels import channels_first


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.clone_policy`.

    Attributes:
        task: The task to clone.
        out: Folder of the policy.
        episodes: Folder of episodes.
        demonstrations: Number of expert episodes to learn from.
        steps: Gradient steps.
        batch_size: Decisions a step.
        learning_rate: AdamW's, decayed to zero by a cosine.
        shift: Largest random shift of a frame, in pixels.
        rollouts: Learn from every solved episode that policies played as well (filtered cloning).
        half: Round the policy's weights to float16, for a file of half the size.
        seed: Seed of weights and batches.
    """

    task: str
    out: Path
    episodes: Path = Path("data/episodes")
    demonstrations: int = 50
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 1e-3
    shift: int = 3
    rollouts: bool = False
    half: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "demonstrations", "steps", "batch_size")
        require_at_least(self, 0, "shift")
        require_above(self, 0, "learning_rate")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def decisions(episodes: Sequence[Episode]) -> tuple[torch.Tensor, torch.Tensor]:
    """What was seen, `(N, 3, H, W)` uint8, and done, `(N, A)` float32, at every decision."""
    frames = np.concatenate([e.frames[:-1] for e in episodes])
    actions = np.concatenate([e.actions for e in episodes])
    return channels_first(torch.from_numpy(frames)), torch.from_numpy(actions)


@_one_thread()
def clone(args: Args, episodes: Sequence[Episode]) -> tuple[GaussianCnnPolicy, PolicyConfig]:
    """Fits a new policy to the episodes' actions; returns it with its configuration.

    On one thread, as `fit`: how orthogonal weights are drawn depends on their number too.
    """
    frames, actions = decisions(episodes)
    config = PolicyConfig(args.task, frames.shape[-1], actions.shape[-1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        policy = make_policy(config)
    fit(
        policy,
        frames,
        actions,
        steps=args.steps,
        learning_rate=args.learning_rate,
        batch_size=args.batch_size,
        shift=args.shift,
        seed=args.seed,
    )
    return policy, config


@_one_thread()
def fit(
    policy: GaussianCnnPolicy,
    frames: torch.Tensor,
    actions: torch.Tensor,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int,
    shift: int,
    seed: int,
) -> None:
    """Fits a policy in place to what was done on each frame, by negative log-likelihood.

    On one thread, so that a seed gives the same policy whatever the number of cores.

    Args:
        policy: The policy, new or to go on with.
        frames: `(N, 3, H, W)` uint8.
        actions: `(N, A)` float32 in [-1, 1].
        steps: Gradient steps.
        learning_rate: AdamW's, decayed to zero by a cosine.
        batch_size: Decisions a step.
        shift: Largest random shift of a frame, in pixels.
        seed: Seed of the batches and shifts.
    """
    generator = torch.Generator().manual_seed(seed)
    actor = actor_parameters(policy).values()
    optimizer = torch.optim.AdamW(actor, lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    policy.set_training_mode(True)
    bar = tqdm(range(steps), unit="step", desc=f"clone {policy.task}", mininterval=0.5)
    for step in bar:
        rows = torch.randint(len(frames), (batch_size,), generator=generator)
        batch = random_shift(frames[rows], shift, generator)
        loss = -policy.get_distribution(batch).log_prob(actions[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(nll=f"{loss.item():.2f}")
    policy.set_training_mode(False)


def random_shift(frames: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Shifts each of `(B, 3, H, W)` frames by up to `most` pixels, repeating the border."""
    if most == 0:
        return frames
    batch, _, height, width = frames.shape
    padded = F.pad(frames.float(), (most,) * 4, mode="replicate").to(frames.dtype)
    offsets = torch.randint(2 * most + 1, (2, batch), generator=generator)
    rows = offsets[0][:, None] + torch.arange(height)
    columns = offsets[1][:, None] + torch.arange(width)
    picked = padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def load_demonstrations(
    folder: Path, task: str, count: int, rollouts: bool = False
) -> list[Episode]:
    """Loads what a policy imitates.

    Args:
        folder: Folder of episodes.
        task: The task.
        count: Number of expert episodes, the first of the training ones.
        rollouts: Add every solved training episode that policies played.

    Raises:
        EpisodeError: There are fewer expert episodes than asked for.
    """
    experts = load_episodes(folder, "train", [task], behaviours=["expert"])
    if len(experts) < count:
        raise EpisodeError(
            f"{folder}: demonstrations: expected {count} expert episodes of {task}, "
            f"found {len(experts)}"
        )
    if not rollouts:
        return experts[:count]
    played = load_episodes(folder, "train", [task], behaviours=["policy"])
    return experts[:count] + [episode for episode in played if episode.solved]


def run(args: Args) -> None:
    """Loads the demonstrations, clones them and saves the policy to `args.out`.

    Raises:
        EpisodeError: There are fewer demonstrations than asked for; nothing is written.
        SettingsError: The folder holds another run.
        InUseError: Another process is training into it.
    """
    chosen = load_demonstrations(args.episodes, args.task, args.demonstrations, args.rollouts)
    with locked(args.out):
        keep_settings(args, args.out)
        started = time.monotonic()
        policy, config = clone(args, chosen)
        save_policy(policy, config, args.out, half=args.half)
    print(f"cloned {args.task} in {time.monotonic() - started:.0f} s: {args.out}")


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
