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

from training.episodes import Episode, EpisodeError, load_episodes
from training.policy import (
    GaussianCnnPolicy,
    PolicyConfig,
    actor_parameters,
    make_policy,
    save_policy,
)
from training.settings import keep_settings, require_at_least


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
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "demonstrations", "steps", "batch_size")
        require_at_least(self, 0, "shift")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate: expected above 0, got {self.learning_rate}")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def clone(args: Args, episodes: Sequence[Episode]) -> tuple[GaussianCnnPolicy, PolicyConfig]:
    """Fits a policy to the episodes' actions; returns it with its configuration.

    On one thread, so that a seed gives the same policy whatever the number of cores.
    """
    frames = torch.as_tensor(np.concatenate([e.frames[:-1] for e in episodes]))
    frames = frames.permute(0, 3, 1, 2).contiguous()
    actions = torch.as_tensor(np.concatenate([e.actions for e in episodes]))
    config = PolicyConfig(args.task, frames.shape[-1], actions.shape[-1])
    generator = torch.Generator().manual_seed(args.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        policy = make_policy(config)
    actor = actor_parameters(policy).values()
    optimizer = torch.optim.AdamW(actor, lr=args.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    policy.set_training_mode(True)
    bar = tqdm(range(args.steps), unit="step", desc=f"clone {args.task}", mininterval=0.5)
    for step in bar:
        rows = torch.randint(len(frames), (args.batch_size,), generator=generator)
        batch = random_shift(frames[rows], args.shift, generator)
        loss = -policy.get_distribution(batch).log_prob(actions[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(nll=f"{loss.item():.2f}")
    policy.set_training_mode(False)
    return policy, config


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


def run(args: Args) -> None:
    """Loads the demonstrations, clones them and saves the policy to `args.out`.

    Raises:
        EpisodeError: There are fewer demonstrations than asked for; nothing is written.
        SettingsError: The folder holds another run.
    """
    demonstrations = load_episodes(args.episodes, "train", [args.task], behaviours=["expert"])
    if len(demonstrations) < args.demonstrations:
        raise EpisodeError(
            f"{args.episodes}: demonstrations: expected {args.demonstrations} expert episodes of "
            f"{args.task}, found {len(demonstrations)}"
        )
    chosen = demonstrations[: args.demonstrations]
    if args.rollouts:
        played = load_episodes(args.episodes, "train", [args.task], behaviours=["policy"])
        chosen += [episode for episode in played if episode.solved]
    keep_settings(args, args.out)
    started = time.monotonic()
    policy, config = clone(args, chosen)
    save_policy(policy, config, args.out)
    print(f"cloned {args.task} in {time.monotonic() - started:.0f} s: {args.out}")


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    main()
