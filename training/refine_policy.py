"""Refines a cloned policy with SB3's PPO, entirely inside the frozen world model.

    python -m training.refine_policy --policy runs/clone/hammer --out runs/refine/hammer

The policy that is kept is the one at which the deterministic policy's imagined success, from starts
that it does not train on, was highest first; once that success saturates, the run ends, since what
follows was measured to be drift; a clone that saturates at once is kept as it is, for imagination
has nothing left to teach it. No real interaction is used.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn import functional as F
from tqdm import tqdm

from training.clone_policy import random_shift
from training.episodes import Episode, load_episodes
from training.evaluate import check_policy_fits, imagined_outcomes
from training.kl_ppo import KLPPO
from training.policy import (
    GaussianCnnPolicy,
    PolicyConfig,
    load_policy,
    load_policy_config,
    policy_arguments,
    save_policy,
)
from training.replay import replay
from training.settings import keep_settings, require_at_least
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.pixels import channels_first
from world4rl_gym.sb3 import ImaginedVecEnv
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.refine_policy`.

    Attributes:
        policy: Folder of the cloned policy.
        out: Folder of the refined policy and of its curve.
        world_model: Folder or Hub id; none given means the embedded one.
        steps: Imagined steps at most.
        num_envs: Rows imagined together.
        rollout: Steps a row between updates.
        learning_rate: Adam's.
        epochs: Passes over each rollout.
        batch_size: Decisions a gradient step.
        gamma: Discount.
        gae_lambda: Of generalised advantage estimation.
        clip_range: PPO's.
        target_kl: PPO stops an update early beyond this divergence.
        warmup: First rollouts, in which the critic alone learns.
        judge_every: Rollouts between measurements of imagined success.
        judge_starts: Starts kept apart to measure it on.
        saturation: Imagined success at which the run ends.
        episodes: Folder of the demonstrations that the policy stays close to; none given anchors it
            to nothing.
        demonstrations: How many of them.
        anchor_steps: Gradient steps on demonstrations after each rollout.
        anchor_imagined: Take them on imagined replays of the demonstrations as well.
        kl_coef: Weight, in PPO's loss, of the divergence from the cloned policy.
        max_deviation: Deviation of the policy's noise that training begins with, at most. A clone's
            own (.2 to .4 of five demonstrations) costs it most of its success.
        success_threshold: Success probability that rewards training; none given takes the model's.
            Success is always judged by the model's own.
        uncertainty_penalty: What a grey level of the world model's uncertainty costs at every step.
        max_uncertainty: Uncertainty at which imagined episodes are cut; none given never cuts.
        initial_frames: "start" begins training episodes at real starts, "anywhere" at any
            demonstrated context of the task too.
        snapshots: Keep the policy of every measurement, in `snapshots/`, for
            `training.trace_refinement`.
        seed: Seed of PPO, starts and noise.
    """

    policy: Path
    out: Path
    world_model: str | None = None
    steps: int = 20_000
    num_envs: int = 32
    rollout: int = 50
    learning_rate: float = 1e-4
    epochs: int = 4
    batch_size: int = 200
    gamma: float = 0.98
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    target_kl: float = 0.05
    warmup: int = 2
    judge_every: int = 3
    judge_starts: int = 40
    saturation: float = 1.0
    episodes: Path | None = None
    demonstrations: int = 50
    anchor_steps: int = 16
    anchor_imagined: bool = True
    kl_coef: float = 0.0
    max_deviation: float = 0.1
    success_threshold: float | None = None
    uncertainty_penalty: float = 0.0
    max_uncertainty: float | None = None
    initial_frames: Literal["start", "anywhere"] = "start"
    snapshots: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(
            self, 1, "steps", "num_envs", "rollout", "epochs", "batch_size", "judge_every"
        )
        require_at_least(self, 0, "kl_coef", "uncertainty_penalty")
        if not 0 < self.max_deviation <= 1:
            raise ValueError(f"max_deviation: expected in (0, 1], got {self.max_deviation}")
        if not 0 < self.saturation <= 1:
            raise ValueError(f"saturation: expected in (0, 1], got {self.saturation}")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One point of the refinement curve.

    Attributes:
        imagined_steps: Steps imagined so far.
        judged: Deterministic imagined success from the starts kept apart.
        rollouts: Success of the sampled training episodes since the last point; None before any.
        seconds: Since the run began.
    """

    imagined_steps: int
    judged: float
    rollouts: float | None
    seconds: float


def split_starts(
    world_model: WorldModel, task: str, judge: int, anywhere: bool = False
) -> tuple[InitialFrames, InitialFrames]:
    """Splits the task's real starts: those to train on, and the last `judge` to judge on.

    With `anywhere`, contexts from within demonstrations are added to those to train on.
    """
    own = world_model.initial_frames
    rows = own.select("start", [task])
    judge = min(judge, len(rows) // 2)
    training = rows[: len(rows) - judge]
    if anywhere:
        training = np.concatenate([training, np.setdiff1d(own.select("anywhere", [task]), rows)])
    parts = []
    for part in (training, rows[len(rows) - judge :]):
        index = torch.from_numpy(part)
        parts.append(
            InitialFrames(
                own.frames[index],
                own.actions[index],
                torch.zeros(len(part), dtype=torch.int64),
                own.is_start[index],
                (task,),
            )
        )
    return parts[0], parts[1]


def snapshot_path(out: Path, imagined_steps: int) -> Path:
    """Where a run keeps the policy that it measured after so many imagined steps."""
    return out / "snapshots" / f"{imagined_steps:07d}"


class _Anchor(BaseCallback):
    """Between rollouts, pulls the mean action towards the demonstrated one.

    On real frames it keeps the policy able on what a camera really sees, where the world model's
    pictures are wrong; on the same demonstrations as they are imagined in replay it keeps the
    policy from telling the two apart, so that what is learned on one holds on the other.
    """

    def __init__(
        self, args: Args, demonstrations: Sequence[Episode], world_model: WorldModel
    ) -> None:
        super().__init__()
        self.args = args
        self.generator = torch.Generator().manual_seed(args.seed)
        seen = [e.frames for e in demonstrations]
        acted = [e.actions for e in demonstrations]
        if args.anchor_imagined:
            replays = replay(
                world_model.denoiser,
                world_model.scheduler,
                demonstrations,
                world_model.config.num_inference_steps,
            )
            seen, acted = seen + [rollout.frames for rollout in replays], acted * 2
        self.frames = channels_first(torch.from_numpy(np.concatenate([f[:-1] for f in seen])))
        self.actions = torch.from_numpy(np.concatenate(acted))
        self._rollouts = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._rollouts += 1
        if self._rollouts <= self.args.warmup + 1:
            return
        policy = self.model.policy
        assert isinstance(policy, GaussianCnnPolicy)
        policy.set_training_mode(True)
        for _ in range(self.args.anchor_steps):
            rows = torch.randint(len(self.frames), (64,), generator=self.generator)
            frames = random_shift(self.frames[rows], 3, self.generator)
            gaussian: Any = policy.get_distribution(frames).distribution
            loss = F.mse_loss(gaussian.mean, self.actions[rows])
            policy.optimizer.zero_grad()
            loss.backward()
            policy.optimizer.step()
        policy.set_training_mode(False)


class _Judge(BaseCallback):
    """Measures imagined success between rollouts, keeps the best policy, ends at saturation."""

    def __init__(
        self, args: Args, world_model: WorldModel, starts: InitialFrames, config: PolicyConfig
    ) -> None:
        super().__init__()
        self.args, self.world_model, self.starts = args, world_model, starts
        self.config = config
        self.curve: list[Measurement] = []
        self.best: float | None = None
        self.finished = False
        self._outcomes: list[bool] = []
        self._rollouts = 0
        self._began = time.monotonic()
        self._bar = tqdm(total=args.steps, unit="step", desc="imagined", mininterval=1)

    def measure(self) -> None:
        """Adds a point to the curve and keeps the policy where it is the best yet."""
        policy = self.model.policy
        assert isinstance(policy, GaussianCnnPolicy)
        policy.set_training_mode(False)
        task = self.config.task
        judged = float(
            imagined_outcomes(
                policy, self.world_model, self.starts, task, seed=self.args.seed + 1
            ).mean()
        )
        rollouts = float(np.mean(self._outcomes)) if self._outcomes else None
        self._outcomes = []
        seconds = round(time.monotonic() - self._began, 1)
        self.curve.append(Measurement(self.num_timesteps, judged, rollouts, seconds))
        self._bar.set_postfix(imagined=f"{judged:.2f}")
        if self.args.snapshots:
            save_policy(policy, self.config, snapshot_path(self.args.out, self.num_timesteps))
        if self.best is None or judged > self.best:
            self.best = judged
            save_policy(policy, self.config, self.args.out)
        self.finished = judged >= self.args.saturation

    def _on_training_start(self) -> None:
        self.measure()

    def _on_rollout_start(self) -> None:
        learning = self._rollouts >= self.args.warmup
        for name, parameter in self.model.policy.named_parameters():
            if "value" not in name:  # what the actor uses, the shared encoder included
                parameter.requires_grad_(learning)
        if self._rollouts > self.args.warmup and (
            (self._rollouts - self.args.warmup) % self.args.judge_every == 0
        ):
            self.measure()
        self._rollouts += 1

    def _on_step(self) -> bool:
        self._bar.update(self.training_env.num_envs)
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self._outcomes.append(bool(info["is_success"]))
        return not self.finished

    def _on_training_end(self) -> None:
        if not self.finished:
            self.measure()
        self._bar.close()


def refine(args: Args) -> list[Measurement]:
    """Refines and saves the policy; returns the curve.

    Raises:
        PolicyError: The policy does not fit the world model.
        WorldModelError: The world model cannot be loaded.
        EpisodeError: There are no demonstrations in the folder.
    """
    world_model = WorldModel.from_pretrained(args.world_model)
    task = check_policy_fits(args.policy, world_model)
    config = load_policy_config(args.policy)
    keep_settings(args, args.out)
    train_starts, judge_starts = split_starts(
        world_model, task, args.judge_starts, args.initial_frames == "anywhere"
    )
    env = ImaginedVecEnv(
        args.num_envs,
        world_model=world_model,
        task=task,
        initial_frames=train_starts,
        success_threshold=args.success_threshold,
        uncertainty_penalty=args.uncertainty_penalty,
        max_uncertainty=args.max_uncertainty,
    )
    cloned = load_policy(args.policy)
    with torch.no_grad():
        cloned.log_std.clamp_(max=math.log(args.max_deviation))
    model = KLPPO(
        GaussianCnnPolicy,
        env,
        n_steps=args.rollout,
        learning_rate=args.learning_rate,
        n_epochs=args.epochs,
        batch_size=args.batch_size,
        gamma=args.gamma,
        gae_lambda=args.gae_lambda,
        clip_range=args.clip_range,
        target_kl=args.target_kl,
        policy_kwargs=policy_arguments(config),
        reference=cloned,
        kl_coef=args.kl_coef,
        seed=args.seed,
        device="cpu",
    )
    model.policy.load_state_dict(cloned.state_dict())
    judge = _Judge(args, world_model, judge_starts, config)
    callbacks: list[BaseCallback] = [judge]
    if args.episodes:
        episodes = load_episodes(args.episodes, "train", [task], ["expert"])
        callbacks.insert(0, _Anchor(args, episodes[: args.demonstrations], world_model))
    model.learn(args.steps, callback=callbacks)
    env.close()
    record: dict[str, Any] = {
        "task": task,
        "kept": max(judge.curve, key=lambda point: point.judged).imagined_steps,
        "curve": [dataclasses.asdict(point) for point in judge.curve],
    }
    (args.out / "curve.json").write_text(json.dumps(record, indent=2) + "\n")
    return judge.curve


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    curve = refine(args)
    print(
        f"imagined success {curve[0].judged:.2f} before, {max(p.judged for p in curve):.2f} at the "
        f"policy kept, after {curve[-1].imagined_steps} imagined steps in {curve[-1].seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
