"""Trains the reward head: which frames show the task solved?

    python -m training.train_reward_head --episodes data/episodes --out runs/reward_head

The threshold is chosen on validation episodes, as the one that calls as many of them solved as
truly were; the figures are of real test episodes. With `--denoiser`, frames that the denoiser
imagined in replay of training episodes are learned from as well, with the labels of the real
frames, and the threshold is chosen on validation episodes as they are imagined.
With `--closed-loop` the
threshold is chosen on what policies truly did from validation starts and are imagined to do from
the same starts, since a closed loop is what refinement will be rewarded in; with
`--learn-flattery` the head also learns, from training starts, that what is imagined of a true
failure is nowhere solved.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from training import command
from training.averaging import update_ema
from training.checkpoints import Checkpoints, LossGuard, StopRequest
from training.clone_policy import random_shift
from training.episodes import Episode, EpisodeError, load_episodes, require_disjoint
from training.locks import locked
from training.policy import load_policy, sample_actions
from training.real_env import split_seeds
from training.records import save_record
from training.replay import replay
from training.settings import keep_settings, require_above, require_at_least
from training.trust import reward_head_figures
from world4rl_gym.components import load_component, save_component
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.pixels import channels_first, to_float
from world4rl_gym.reward import RewardHead, RewardHeadConfig
from world4rl_gym.scheduler import EulerScheduler

MOST_EPISODES = 500
"""Seeds from a policy's offset on that are taken for its own."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.train_reward_head`.

    Attributes:
        out: Folder of checkpoints, figures and, at the end, `reward_head/`.
        episodes: Folder of episodes.
        tasks: Tasks; none given means all found.
        denoiser: Folder that holds `denoiser/`, to learn from imagined frames as well.
        imagined_every: One in so many training episodes is imagined for that.
        closed_loop: Deterministic policies whose real episodes are among the validation episodes,
            each as FOLDER@SEED_OFFSET: the policy's folder, in which "{task}" stands for the task's
            name, and the offset that it was collected with.
        learn_flattery: Learn from those among the training episodes too.
        init: Folder that holds the `reward_head/` whose weights training begins from; none given
            begins from random ones.
        steps: Gradient steps.
        batch_size: Frames a step.
        learning_rate: AdamW's peak, decayed to zero by a cosine.
        checkpoint_every: Steps between checkpoints.
        skip_bad: Leave broken episode files out rather than refuse.
        seed: Seed of weights and batches.
    """

    out: Path
    episodes: Path = Path("data/episodes")
    tasks: tuple[str, ...] = ()
    denoiser: Path | None = None
    imagined_every: int = 3
    closed_loop: tuple[str, ...] = ()
    learn_flattery: bool = False
    init: Path | None = None
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 1e-3
    checkpoint_every: int = 500
    skip_bad: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps", "checkpoint_every", "imagined_every")
        require_at_least(self, 2, "batch_size")
        require_above(self, 0, "learning_rate")
        for source in self.closed_loop:
            if not source.rpartition("@")[2].isdigit():
                raise ValueError(f"closed_loop: expected FOLDER@SEED_OFFSET, got {source!r}")
        if self.closed_loop and self.denoiser is None:
            raise ValueError("closed_loop: needs denoiser")
        if self.learn_flattery and not self.closed_loop:
            raise ValueError("learn_flattery: needs closed_loop")


@dataclasses.dataclass(frozen=True)
class LabelledFrames:
    """`(N, 3, H, W)` uint8 frames and whether each shows the task solved, `(N,)` float32."""

    frames: Tensor
    solved: Tensor


def labelled(
    episodes: Sequence[Episode], imagined: Sequence[np.ndarray] | None = None
) -> LabelledFrames:
    """Every frame after an action, real or as imagined in replay, with its label."""
    frames = [e.frames for e in episodes] if imagined is None else imagined
    pixels = channels_first(torch.from_numpy(np.concatenate([f[1:] for f in frames])))
    solved = torch.from_numpy(np.concatenate([e.success for e in episodes])).float()
    if not 0 < float(solved.sum()) < len(solved):
        raise EpisodeError("success: expected both solved and unsolved frames among the episodes")
    return LabelledFrames(pixels, solved)


def imagined_frames(denoiser: Denoiser, episodes: Sequence[Episode]) -> list[np.ndarray]:
    """The frames of each episode as they are imagined in replay."""
    return [rollout.frames for rollout in replay(denoiser, EulerScheduler(), episodes, 1)]


def closed_loop(
    denoiser: Denoiser, sources: Sequence[str], episodes: Sequence[Episode], split: str
) -> tuple[list[Episode], list[np.ndarray]]:
    """What deterministic policies did in reality, and are imagined to do from the same starts.

    Args:
        denoiser: The denoiser.
        sources: FOLDER@SEED_OFFSET of each policy.
        episodes: All episodes of the split; those of these policies are found by their seeds.
        split: The split.

    Returns:
        The real episodes, and the imagined frames that pair with each.

    Raises:
        EpisodeError: A source has no episode in this split.
    """
    real: list[Episode] = []
    imagined: list[np.ndarray] = []
    for source in sources:
        folder, _, offset = source.rpartition("@")
        seeds = split_seeds(split, MOST_EPISODES, int(offset))
        if not any(e.behaviour == "policy" and e.seed in seeds for e in episodes):
            raise EpisodeError(f"closed_loop: no {split} episode was collected as {source}")
        for task in sorted({e.task for e in episodes}):
            of_policy = [
                e
                for e in episodes
                if e.task == task and e.behaviour == "policy" and e.seed in seeds
            ]
            if not of_policy:
                continue
            policy = load_policy(folder.format(task=task))
            rollouts = replay(
                denoiser,
                EulerScheduler(),
                of_policy,
                1,
                act=lambda frames, policy=policy: sample_actions(policy, frames, None),  # type: ignore[misc]
            )
            real += of_policy
            imagined += [rollout.frames for rollout in rollouts]
    return real, imagined


def with_flattery(
    frames: LabelledFrames, real: Sequence[Episode], imagined: Sequence[np.ndarray]
) -> LabelledFrames:
    """Adds, as unsolved, all that was imagined of episodes that truly failed."""
    failed = [f[1:] for e, f in zip(real, imagined, strict=True) if not e.solved]
    if not failed:
        return frames
    more = channels_first(torch.from_numpy(np.concatenate(failed)))
    return LabelledFrames(
        torch.cat([frames.frames, more]), torch.cat([frames.solved, torch.zeros(len(more))])
    )


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().numpy().data)


def train(args: Args, pools: Sequence[LabelledFrames], frame_size: int) -> RewardHead:
    """Fits the head; half of each batch is solved frames, and the loss is weighted back.

    Args:
        args: The command line.
        pools: Sources of frames, drawn from in turn.
        frame_size: Height and width of the frames.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        head = RewardHead(RewardHeadConfig(frame_size))
    if args.init:
        first = load_component(args.init, "reward_head", RewardHead, RewardHeadConfig)
        head.load_state_dict(first.state_dict())
    ema = copy.deepcopy(head).requires_grad_(False)
    optimizer = torch.optim.AdamW(head.parameters(), lr=args.learning_rate, weight_decay=1e-2)
    fingerprint = {
        "frames": [len(pool.frames) for pool in pools],
        "solved": [int(pool.solved.sum()) for pool in pools],
        "contents": [_checksum(pool.frames) for pool in pools],
        "begun from": [_checksum(p.detach()) for p in head.parameters()],
        **{k: getattr(args, k) for k in ("steps", "batch_size", "learning_rate", "seed")},
    }
    checkpoints = Checkpoints(args.out / "checkpoints", fingerprint)
    state = checkpoints.load_newest()
    begun = 0
    if state:
        begun = state["step"]
        head.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
    positives = [pool.solved.nonzero().squeeze(1) for pool in pools]
    negatives = [(pool.solved == 0).nonzero().squeeze(1) for pool in pools]
    bar = tqdm(
        range(begun, args.steps), initial=begun, total=args.steps, desc="reward head", unit="step"
    )
    head.train()
    guard = LossGuard(args.seed)
    with StopRequest() as stop:
        for step in bar:
            generator = torch.Generator().manual_seed(args.seed * 100_003 + step)
            pool, yes, no = (x[step % len(pools)] for x in (pools, positives, negatives))
            half = args.batch_size // 2
            rows = torch.cat(
                [
                    yes[torch.randint(len(yes), (half,), generator=generator)],
                    no[torch.randint(len(no), (args.batch_size - half,), generator=generator)],
                ]
            )
            frames = random_shift(pool.frames[rows], 2, generator)
            share = len(yes) / len(pool.frames)
            weight = torch.where(pool.solved[rows] > 0, 2 * share, 2 * (1 - share))
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * 0.5 * (1 + math.cos(math.pi * step / args.steps))
            with torch.random.fork_rng(devices=[]), torch.autocast("cpu", torch.bfloat16):
                torch.manual_seed(args.seed * 100_003 + step)  # dropout
                logits = head(to_float(frames))
            loss = F.binary_cross_entropy_with_logits(logits, pool.solved[rows], weight)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in head.parameters()])  # type: ignore[misc]
            if guard.accepts(step, loss.item() if norm.isfinite() else math.nan):
                optimizer.step()
                update_ema(ema, head, 0.995, step)
            if step % 50 == 0:
                bar.set_postfix(loss=f"{loss.item():.4f}")
            done = step + 1
            if guard.bad:
                continue
            if done % args.checkpoint_every == 0 or stop.signal:
                checkpoints.save(
                    done,
                    {
                        "model": head.state_dict(),
                        "ema": ema.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                )
            if stop.signal:
                print(f"stopped at step {done}; the same command goes on from there")
                raise SystemExit(128 + stop.signal)
    return ema.eval()


@torch.no_grad()
def probabilities(head: RewardHead, frames: Tensor) -> np.ndarray:
    """Success probability of `(N, 3, H, W)` uint8 frames, `(N,)`."""
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([head.success_probability(f) for f in frames.split(512)]).numpy()


def episode_scores(
    head: RewardHead, episodes: Sequence[Episode], imagined: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Success probability after each action, `(T,)` an episode, of real or imagined frames."""
    pooled = probabilities(head, labelled(episodes, imagined).frames)
    return np.split(pooled, np.cumsum([len(e) for e in episodes])[:-1])


def choose_threshold(highest: np.ndarray, solved: np.ndarray) -> float:
    """The threshold that calls as many episodes solved as truly were: one without optimism.

    Episodes rather than frames, since one frame above the threshold ends an imagined episode with
    a reward. Among those that come equally near, the one that judges most episodes rightly is
    taken, and of these the middle one.

    Args:
        highest: `(N,)` highest success probability of each validation episode.
        solved: `(N,)` whether it was solved.
    """
    grid = np.linspace(0.05, 0.99, 95)
    called = highest[None] >= grid[:, None]
    bias = np.abs(called.sum(1) - (solved > 0).sum())
    wrong = (called != (solved > 0)[None]).sum(1)
    unbiased = np.flatnonzero(bias == bias.min())
    best = unbiased[wrong[unbiased] == wrong[unbiased].min()]
    return round(float(grid[best[len(best) // 2]]), 2)


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    splits = {
        split: load_episodes(args.episodes, split, args.tasks or None, skip_bad=args.skip_bad)
        for split in ("train", "validation", "test")
    }
    require_disjoint(splits)
    frame_size = splits["train"][0].frames.shape[1]
    with locked(args.out):
        keep_settings(args, args.out)
        pools = [labelled(splits["train"])]
        denoiser = None
        if args.denoiser:
            denoiser = load_component(args.denoiser, "denoiser", Denoiser, DenoiserConfig)
            some = splits["train"][:: args.imagined_every]
            print(f"imagining {len(some)} training episodes")
            pools.append(labelled(some, imagined_frames(denoiser, some)))
            if args.learn_flattery:
                pairs = closed_loop(denoiser, args.closed_loop, splits["train"], "train")
                pools[-1] = with_flattery(pools[-1], *pairs)
        head = train(args, pools, frame_size)
        held_out, judged_on = splits["validation"], None
        if denoiser:
            if args.closed_loop:
                held_out, judged_on = closed_loop(
                    denoiser, args.closed_loop, held_out, "validation"
                )
            else:
                judged_on = imagined_frames(denoiser, held_out)
        validation = episode_scores(head, held_out, judged_on)
        threshold = choose_threshold(
            np.array([s.max() for s in validation]), np.array([e.solved for e in held_out])
        )
        result: dict[str, Any] = {"threshold": threshold}
        scores = episode_scores(head, splits["test"])
        judged = list(zip(splits["test"], scores, strict=True))
        for task in ("all", *sorted({e.task for e in splits["test"]})):
            chosen = [(e, s) for e, s in judged if task in ("all", e.task)]
            result[task] = reward_head_figures(
                [e for e, _ in chosen], [s for _, s in chosen], threshold
            )
        save_component(head, args.out / "reward_head")
        save_record(args.out / "figures.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    command.run(main)
