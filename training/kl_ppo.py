"""PPO that stays close to a reference policy: SB3's PPO, with one more term in its loss."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor
from torch.distributions import kl_divergence

from training.policy import GaussianCnnPolicy


class KLPPO(PPO):
    """SB3's PPO whose loss adds `kl_coef` times the mean KL(policy || reference).

    The divergence is exact, between the two Gaussians on the frames of each gradient step, and
    flows into the policy; the reference is never changed. SB3's loss has a place for a mean over
    the batch that comes from `evaluate_actions`: the entropy's. The negated divergence stands
    there, so that `train` itself stays SB3's own. As in KL-regularised fine-tuning (Ziegler et al.,
    arXiv 1909.08593, where it is part of the reward).

    Args:
        *arguments: PPO's; `ent_coef` may not be given.
        reference: The policy to stay close to.
        kl_coef: Weight of the divergence, in nats, in the loss; at least 0.
        **more: PPO's.

    Raises:
        ValueError: `kl_coef` is negative.
    """

    def __init__(
        self, *arguments: Any, reference: GaussianCnnPolicy, kl_coef: float, **more: Any
    ) -> None:
        if kl_coef < 0:
            raise ValueError(f"kl_coef: expected at least 0, got {kl_coef}")
        more["ent_coef"] = kl_coef
        super().__init__(*arguments, **more)
        self.reference = reference.to(self.device).requires_grad_(False)
        self.reference.set_training_mode(False)

    def divergence(self, observations: Tensor) -> Tensor:
        """KL(policy || reference), nats, of each of `(B, H, W, 3)` frames: `(B,)`."""
        with torch.no_grad():
            reference = self._gaussian(self.reference, observations)
        return kl_divergence(self._gaussian(self.policy, observations), reference).sum(dim=1)

    def train(self) -> None:
        """Updates the policy from the rollout, as PPO does, with the divergence in its loss."""
        evaluate = self.policy.evaluate_actions

        def with_divergence(observations: Any, actions: Tensor) -> Any:
            values, log_probability, _ = evaluate(observations, actions)
            return values, log_probability, -self.divergence(observations)

        if self.ent_coef == 0:
            super().train()
            return
        self.policy.evaluate_actions = with_divergence  # type: ignore[assignment, method-assign]
        try:
            super().train()
        finally:
            del self.policy.evaluate_actions  # type: ignore[method-assign]

    @staticmethod
    def _gaussian(policy: ActorCriticPolicy, observations: Tensor) -> Any:
        return policy.get_distribution(observations).distribution

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "reference"]
