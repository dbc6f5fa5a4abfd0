"""Judges a policy while it is refined: how well, from starts kept apart, and which one to keep."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from training.evaluate import imagined_outcomes
from training.kl_ppo import KLPPO
from training.policy import GaussianCnnPolicy, actor_parameters, ensemble, save_policy
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One point of the refinement curve.

    Attributes:
        imagined_steps: Steps imagined so far.
        judged: Deterministic imagined success from starts kept apart, the lowest of the judges'.
        rollouts: Success of the sampled training episodes since the last point; None before any.
        seconds: Since the run began.
    """

    imagined_steps: int
    judged: float
    rollouts: float | None
    seconds: float


def chosen(curve: Sequence[Measurement], least_gain: float) -> Measurement:
    """The point whose policy is kept: where judged success was highest first, if that is a gain.

    Short of `least_gain` above the first point, the first is kept: so little is within the judge's
    own error, of chance and of the world model's kindness to what was optimised inside it.
    """
    best = max(curve, key=lambda point: point.judged)
    return best if best.judged - curve[0].judged >= least_gain - 1e-9 else curve[0]


def gained(curve: Sequence[Measurement], cloned: float | None, least_gain: float) -> bool:
    """Whether the chosen point's judged success is far enough above the clone's to be believed.

    Args:
        curve: What was measured.
        cloned: The clone's judged success, where its first point is not the clone's; else None.
        least_gain: How far.
    """
    return cloned is None or chosen(curve, least_gain).judged - cloned >= least_gain - 1e-9


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
                own.frames,
                own.windows[index],
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


class Judge(BaseCallback):
    """Averages the policy over updates, measures the average, keeps the best, ends at saturation.

    A single update of PPO is noise as much as progress; what is measured and kept is the moving
    average of the weights (Polyak averaging), never the policy of one update.

    Args:
        policy: What the average begins from: the cloned policy; changed in place.
        world_models: Who judges: what was imagined to succeed in one may be its flattery, so of
            several the least favourable counts.
        starts: Starts that the policy does not train on.
        out: Folder of the policy that is kept.
        every: Updates of the policy between measurements.
        decay: Of the average, an update.
        saturation: Judged success at which the run ends.
        least_gain: Judged success that a policy must gain to be kept.
        snapshots: Keep every measured policy too, in full precision.
        half: Round the weights of the one in `out` to float16.
        total: Imagined steps of the run at most, for the bar.
        seed: Seed of the denoising noise.
    """

    def __init__(
        self,
        policy: GaussianCnnPolicy,
        world_models: Sequence[WorldModel],
        starts: InitialFrames,
        out: Path,
        *,
        every: int,
        decay: float,
        saturation: float,
        least_gain: float,
        snapshots: bool,
        half: bool,
        total: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.average, self.world_models, self.starts, self.out = policy, world_models, starts, out
        self.every, self.decay = every, decay
        self.saturation, self.least_gain = saturation, least_gain
        self.snapshots, self.half, self.seed = snapshots, half, seed
        self.curve: list[Measurement] = []
        self.cloned: float | None = None
        """Judged success of the clone, where the curve begins with another policy."""
        self.beside: GaussianCnnPolicy | None = None
        """The clone, where its ensemble with the chosen policy is kept, whatever was gained."""
        self.finished = False
        self._outcomes: list[bool] = []
        self._began = time.monotonic()
        self._bar = tqdm(total=total, unit="step", desc="imagined", mininterval=1)

    @property
    def kept(self) -> Measurement | None:
        """The point whose policy is in `out`; None where that is the clone still."""
        if self.beside is None and not gained(self.curve, self.cloned, self.least_gain):
            return None
        return chosen(self.curve, self.least_gain)

    def success(self) -> float:
        """Imagined success of the policy's mean action, of the least favourable world model."""
        return min(
            float(
                imagined_outcomes(
                    self.average, world_model, self.starts, self.average.task, seed=self.seed
                ).mean()
            )
            for world_model in self.world_models
        )

    def measure(self) -> None:
        """Adds a point to the curve and keeps the policy where it is the one to keep."""
        config, judged = self.average.config, self.success()
        rollouts = float(np.mean(self._outcomes)) if self._outcomes else None
        self._outcomes = []
        seconds = round(time.monotonic() - self._began, 1)
        self.curve.append(Measurement(self.num_timesteps, judged, rollouts, seconds))
        self._bar.set_postfix(imagined=f"{judged:.2f}")
        if self.snapshots:
            save_policy(self.average, config, snapshot_path(self.out, self.num_timesteps))
        if self.kept is self.curve[-1]:
            kept = ensemble([self.beside, self.average]) if self.beside else self.average
            save_policy(kept, kept.config, self.out, half=self.half)
        self.finished = judged >= self.saturation

    def _on_training_start(self) -> None:
        self.measure()

    def _on_rollout_start(self) -> None:
        assert isinstance(self.model, KLPPO)
        if self.model.policy_updates > 0:
            self._follow()
            if self.model.policy_updates % self.every == 0:
                self.measure()

    def _follow(self) -> None:
        policy = self.model.policy
        assert isinstance(policy, GaussianCnnPolicy)
        theirs = actor_parameters(policy)
        with torch.no_grad():
            for name, own in actor_parameters(self.average).items():
                own.lerp_(theirs[name], 1 - self.decay)

    def _on_step(self) -> bool:
        self._bar.update(self.training_env.num_envs)
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self._outcomes.append(bool(info["is_success"]))
        return not self.finished

    def _on_training_end(self) -> None:
        if not self.finished:
            self._follow()
            self.measure()
        self._bar.close()
