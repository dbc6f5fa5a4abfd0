"""PPO for a policy that is good already: SB3's PPO, held near a reference, its critic apart."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor
from torch.distributions import kl_divergence

from training.policy import GaussianCnnPolicy, actor_parameters


class KLPPO(PPO):
    """SB3's PPO for refining a policy that can do something already.

    Three things are added, `train` itself stays SB3's own:

    - its loss adds `kl_coef` times the mean KL(policy || reference). The divergence is exact,
      between the two Gaussians on the frames of each gradient step, and flows into the policy; the
      reference is never changed. SB3's loss has a place for a mean over the batch that comes from
      `evaluate_actions`: the entropy's. The negated divergence stands there. As in KL-regularised
      fine-tuning (Ziegler et al., arXiv 1909.08593, where it is part of the reward);
    - the critic, which begins from nothing, learns at a rate of its own: a rate that suits it moves
      the mean action by half its deviation in a single step of Adam, and `target_kl` then ends
      every update after one or two;
    - in the first `critic_warmup` updates only the critic learns.

    Args:
        *arguments: PPO's; `ent_coef` may not be given.
        reference: The policy to stay close to.
        kl_coef: Weight of the divergence, in nats, in the loss; at least 0.
        critic_learning_rate: The critic's, above 0; None shares the policy's.
        critic_warmup: Updates at the beginning that leave the policy as it is.
        **more: PPO's. With `policy_kwargs={"share_features_extractor": False}` the critic has an
            encoder of its own.

    Raises:
        ValueError: `kl_coef` is negative, or `critic_learning_rate` not above 0.
    """

    def __init__(
        self,
        *arguments: Any,
        reference: GaussianCnnPolicy,
        kl_coef: float,
        critic_learning_rate: float | None = None,
        critic_warmup: int = 0,
        **more: Any,
    ) -> None:
        if kl_coef < 0:
            raise ValueError(f"kl_coef: expected at least 0, got {kl_coef}")
        if critic_learning_rate is not None and critic_learning_rate <= 0:
            raise ValueError(f"critic_learning_rate: expected above 0, got {critic_learning_rate}")
        more["ent_coef"] = kl_coef
        self.critic_learning_rate = critic_learning_rate
        self.critic_warmup = critic_warmup
        self.updates = 0
        super().__init__(*arguments, **more)
        self.reference = reference.to(self.device).requires_grad_(False)
        self.reference.set_training_mode(False)

    @property
    def policy_updates(self) -> int:
        """Updates so far that the policy learned from: all but the critic's warm-up."""
        return max(0, self.updates - self.critic_warmup)

    def divergence(self, observations: Tensor) -> Tensor:
        """KL(policy || reference), nats, of each of `(B, H, W, 3)` frames: `(B,)`."""
        with torch.no_grad():
            reference = self._gaussian(self.reference, observations)
        return kl_divergence(self._gaussian(self.policy, observations), reference).sum(dim=1)

    def train(self) -> None:
        """Updates policy and critic from the rollout, as PPO does, the divergence in its loss."""
        learns = self.updates >= self.critic_warmup
        self.updates += 1
        for parameter in actor_parameters(self.policy).values():
            parameter.requires_grad_(learns)
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

    def _setup_model(self) -> None:
        super()._setup_model()
        actor = actor_parameters(self.policy)
        critic = [p for name, p in self.policy.named_parameters() if name not in actor]
        optimizer: Any = type(self.policy.optimizer)
        self.policy.optimizer = optimizer(
            [{"params": list(actor.values())}, {"params": critic, "of_critic": True}],
            lr=self.lr_schedule(1),
            **self.policy.optimizer_kwargs,
        )

    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)
        for group in optimizers.param_groups:
            if group.get("of_critic") and self.critic_learning_rate is not None:
                group["lr"] = self.critic_learning_rate

    @staticmethod
    def _gaussian(policy: ActorCriticPolicy, observations: Tensor) -> Any:
        return policy.get_distribution(observations).distribution

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "reference"]
