"""PPO that stays close to the policy it began from."""

from __future__ import annotations

import pytest
import torch
from conftest import make_tiny_world_model

from training.kl_ppo import KLPPO
from training.policy import GaussianCnnPolicy, actor_parameters, make_policy, policy_arguments
from training.policy_network import PolicyConfig
from world4rl_gym.sb3 import ImaginedVecEnv

CONFIG = PolicyConfig("push", 16, 3)


def make_model(kl_coef: float, **more) -> KLPPO:
    env = ImaginedVecEnv(4, world_model=make_tiny_world_model(), task="push")
    torch.manual_seed(0)
    reference = make_policy(CONFIG)
    model = KLPPO(
        GaussianCnnPolicy,
        env,
        n_steps=8,
        batch_size=16,
        learning_rate=3e-3,
        policy_kwargs={**policy_arguments(CONFIG), "share_features_extractor": False},
        reference=reference,
        kl_coef=kl_coef,
        seed=0,
        device="cpu",
        **more,
    )
    model.policy.load_state_dict(reference.state_dict())
    return model


def drift(kl_coef: float) -> float:
    model = make_model(kl_coef)
    frames = torch.from_numpy(model.get_env().reset())
    assert float(model.divergence(frames).detach().abs().max()) < 1e-6
    before = [p.clone() for p in model.reference.parameters()]
    model.learn(4 * 8 * 6)
    assert all(torch.equal(a, b) for a, b in zip(before, model.reference.parameters(), strict=True))
    return float(model.divergence(frames).mean().detach())


def test_the_divergence_holds_the_policy_back() -> None:
    assert drift(10.0) < 0.5 * drift(0.0)


def test_the_divergence_is_that_of_two_gaussians() -> None:
    model = make_model(1.0)
    with torch.no_grad():
        model.policy.log_std += 0.5
        model.policy.action_net.bias += 0.3
    frames = torch.from_numpy(model.get_env().reset())
    ours = model.policy.get_distribution(frames).distribution
    theirs = model.reference.get_distribution(frames).distribution
    ratio = (ours.stddev / theirs.stddev) ** 2
    shift = ((ours.mean - theirs.mean) / theirs.stddev) ** 2
    expected = 0.5 * (ratio + shift - 1 - ratio.log()).sum(1)
    assert torch.allclose(model.divergence(frames), expected, atol=1e-5)


def test_evaluate_actions_is_put_back() -> None:
    model = make_model(1.0)
    model.learn(4 * 8)
    assert "evaluate_actions" not in vars(model.policy)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="kl_coef"):
        make_model(-1.0)


def test_a_critic_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="critic_learning_rate"):
        make_model(0.0, critic_learning_rate=0.0)


def test_the_critic_learns_at_its_own_rate_from_an_encoder_of_its_own() -> None:
    model = make_model(0.0, critic_learning_rate=1e-2)
    model.learn(4 * 8)
    actor, critic = model.policy.optimizer.param_groups
    assert (actor["lr"], critic["lr"]) == (3e-3, 1e-2)
    named = dict(model.policy.named_parameters())
    theirs = {id(p) for p in actor["params"]}
    assert theirs == {id(p) for p in actor_parameters(model.policy).values()}
    assert theirs | {id(p) for p in critic["params"]} == {id(p) for p in named.values()}
    assert id(named["vf_features_extractor.layers.0.weight"]) not in theirs


def test_only_the_critic_learns_in_its_warm_up() -> None:
    model = make_model(1.0, critic_warmup=2)

    def parts() -> tuple[torch.Tensor, torch.Tensor]:
        named = {n: p.detach().clone() for n, p in model.policy.named_parameters()}
        actor = actor_parameters(model.policy)
        return (
            torch.cat([p.flatten() for n, p in named.items() if n in actor]),
            torch.cat([p.flatten() for n, p in named.items() if n not in actor]),
        )

    before = parts()
    model.learn(2 * 4 * 8)
    warm = parts()
    model.learn(4 * 8, reset_num_timesteps=False)
    after = parts()
    assert torch.equal(warm[0], before[0])
    assert not torch.equal(warm[1], before[1])
    assert not torch.equal(after[0], warm[0])
