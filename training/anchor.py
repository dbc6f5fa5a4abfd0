"""Fits a policy under refinement to demonstrations, and keeps it so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn import functional as F

from training.clone_policy import decisions, fit, random_shift
from training.episodes import Episode
from training.kl_ppo import KLPPO
from training.policy import GaussianCnnPolicy, actor_parameters


class DemonstrationAnchor(BaseCallback):
    """Before PPO adapts a policy to demonstrations; after every rollout that PPO learned from pulls
    the mean action to the demonstrated.

    On real frames it keeps the policy able on what a camera really sees, where the world model's
    pictures are wrong; on imagined ones (`training.imagined_demonstrations`) it keeps the policy
    from telling the two apart, so that what is learned on one holds on the other. Its optimizer is
    its own, so that PPO's momentum does not leak into it, nor its into PPO.

    Args:
        episodes: What to hold the policy to; every decision counts alike.
        steps: Gradient steps after a rollout.
        learning_rate: Adam's.
        batch_size: Decisions a gradient step.
        shift: Largest random shift of a frame, in pixels.
        seed: Seed of the batches.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        *,
        steps: int,
        learning_rate: float,
        batch_size: int = 64,
        shift: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.steps, self.learning_rate = steps, learning_rate
        self.batch_size, self.shift = batch_size, shift
        self.seed, self.generator = seed, torch.Generator().manual_seed(seed)
        self.frames, self.actions = decisions(episodes)
        self._optimizer: torch.optim.Adam | None = None

    def adapt(self, policy: GaussianCnnPolicy, steps: int, learning_rate: float) -> None:
        """Fits a policy in place to the demonstrations, as `training.clone_policy.fit` does."""
        fit(
            policy,
            self.frames,
            self.actions,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=self.batch_size,
            shift=self.shift,
            seed=self.seed,
        )

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        assert isinstance(self.model, KLPPO)
        if self.model.policy_updates > 0:
            self._pull()

    def _on_training_end(self) -> None:
        self._on_rollout_start()

    def _pull(self) -> None:
        policy = self.model.policy
        assert isinstance(policy, GaussianCnnPolicy)
        if self._optimizer is None:
            actor = actor_parameters(policy).values()
            self._optimizer = torch.optim.Adam(actor, lr=self.learning_rate)
        policy.set_training_mode(True)
        for _ in range(self.steps):
            rows = torch.randint(len(self.frames), (self.batch_size,), generator=self.generator)
            frames = random_shift(self.frames[rows], self.shift, self.generator)
            gaussian: Any = policy.get_distribution(frames).distribution
            loss = F.mse_loss(gaussian.mean, self.actions[rows])
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        policy.set_training_mode(False)
